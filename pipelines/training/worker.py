"""The training loop: what each worker of `pipelines.train` does.

It begins at the newest checkpoint, takes the plan's steps one after the other, and after each epoch validates, saves
and reports. All workers hold the same totals and hear the same interruptions, so all come to the same decisions.
"""

import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from numpy.typing import NDArray
from ray.actor import ActorHandle
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cluster import session
from overlay.config import Train
from overlay.evaluation import metrics
from overlay.models import model_file
from overlay.models.device import autocast, use_all_cores
from overlay.models.network import StateDict, normalise
from overlay.models.pretrained import Weights
from overlay.training import checkpoint, history
from overlay.training.epoch_metrics import EpochMetrics
from overlay.training.history import Epoch
from overlay.training.learner import Learner
from overlay.training.sampler import SamplePlan
from pipelines.runtime.placement import Placement
from pipelines.training import batch_stream, image_source
from pipelines.training.monitor import StatusBoard, TrainingStatus
from pipelines.training.preemption import Interruptions

VALIDATION_BATCH = 32
POST_SECONDS = 1.0
AHEAD_SHARE = 0.25
"""of a node's object store, for batches that its workers have not used yet"""


@dataclass(frozen=True)
class TrainingJob:
    """What a worker is told."""

    config: Train
    card: model_file.ModelCard
    weights: ray.ObjectRef[Weights]
    class_weights: Tensor | None
    """float32 (classes,)"""
    train: image_source.ImageSource
    validation: image_source.DecodedImages
    plan: SamplePlan
    placement: Placement
    checkpoints: Path
    board: ActorHandle[StatusBoard]


def train_worker(config: dict[str, TrainingJob]) -> None:
    """Train as one of the workers, from the newest checkpoint to the last epoch, the early stop, or an interruption."""
    job = config["job"]
    settings, plan = job.config, job.plan
    posted: TrainingStatus = ray.get(job.board.read.remote())  # type: ignore[assignment]
    if posted.hopeless:
        return
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    use_all_cores(share=context.get_local_world_size())
    learner = Learner(
        settings,
        len(job.card.classes),
        ray.get(job.weights),
        plan,
        device,
        rank=rank,
        world_size=world_size,
        class_weights=job.class_weights,
    )
    tally = EpochMetrics(len(job.card.classes), device)
    precision = autocast(device, settings.train.precision)
    interruptions = Interruptions(job.board, rank, world_size)
    writer = checkpoint.CheckpointWriter(job.checkpoints)
    step, epochs, trained_for = 0, list[Epoch](), 0.0
    previous = ray.train.collective.broadcast_from_rank_zero(checkpoint.newest_checkpoint(job.checkpoints))
    if previous is not None:
        state = checkpoint.load_checkpoint(previous, "last.pt", mmap=False)
        learner.load_state_dict(state["learner"])
        step, epochs, trained_for = state["step"], checkpoint.checkpoint_history(previous), state["seconds"]
        if rank == 0:  # the totals are those of all workers
            tally.load(state["tally"])
        del state
    if step == plan.steps or history.should_stop(epochs, settings.early_stopping):
        return

    def save(best: StateDict | None = None) -> None:
        totals = tally.totals()
        if rank > 0:
            return
        state = {"learner": learner.state_dict(), "tally": totals, "seconds": time.monotonic() - began}
        state |= {"step": step, "history": [asdict(epoch) for epoch in epochs]}
        known = list(epochs)
        writer.submit(step, state, best, then=lambda: job.board.post_epochs.remote(known))

    def saved_for_a_node() -> None:
        writer.wait()
        if rank == 0:
            job.board.post_saved.remote(step)

    learner.begin_epoch(plan.epoch(step))
    cluster = session.resources()
    batches = batch_stream.stream_batches(
        job.train,
        plan,
        settings.augment,
        rank=rank,
        world_size=world_size,
        start=step,
        cpus=job.placement.data_cpus(world_size, cluster),
        ahead_bytes=AHEAD_SHARE * cluster.store_bytes / context.get_local_world_size(),
    )
    told = 0.0
    began = time.monotonic() - trained_for
    for batch in batches:
        images, labels = _to_device(batch.images, device), _to_device(batch.labels, device)
        learning_rate = learner.learning_rate
        try:
            logits, losses = learner.step(images, labels, batch.step, _total_weight(job, batch.step))
        except torch.OutOfMemoryError:
            ray.get(job.board.give_up.remote(_out_of_memory(settings, plan)))
            raise
        tally.add(logits, labels, losses)
        step = batch.step + 1
        if rank == 0 and time.monotonic() - told >= POST_SECONDS:
            told = time.monotonic()
            interruptions.told(job.board.post.remote(step, tally.glance(), world_size))
        decision = interruptions.after(step)
        if step % plan.steps_per_epoch:
            if decision != "go on" or step % settings.train.checkpoint_steps == 0:
                save()
            if decision == "save":
                saved_for_a_node()
            if decision == "leave":
                break
            continue

        train_loss, train_confusion = tally.sums()
        trained_for = time.monotonic() - began
        val_loss, val_confusion = validate_epoch(
            learner.averaged, job.validation, job.card, precision, rank, world_size
        )
        epoch = Epoch(
            epoch=step // plan.steps_per_epoch,
            train_loss=train_loss,
            train_accuracy=metrics.accuracy(train_confusion),
            val_loss=val_loss,
            val_accuracy=metrics.accuracy(val_confusion),
            val_macro_f1=metrics.macro_f1(val_confusion),
            learning_rate=float(learning_rate),
            images_per_second=plan.samples / trained_for,
            seconds=time.monotonic() - began,
            grad_norm=learner.epoch_ended(val_loss),
        )
        epochs.append(epoch)
        improved = history.best_epoch(epochs, settings.early_stopping) == len(epochs) - 1
        began = time.monotonic()
        save(best=learner.weights() if improved else None)
        if decision == "save":
            saved_for_a_node()
        ray.train.report(asdict(epoch))
        job.board.post_memory.remote(_peak_memory(device))
        if decision == "leave" or step == plan.steps or history.should_stop(epochs, settings.early_stopping):
            break
        learner.begin_epoch(plan.epoch(step))
    writer.wait()


def validate_epoch(
    network: nn.Module,
    samples: image_source.DecodedImages,
    card: model_file.ModelCard,
    precision: torch.autocast,
    rank: int,
    world_size: int,
) -> tuple[float, NDArray[np.int64]]:
    """Return the mean loss and the confusion matrix of ``samples`` over all workers.

    The batches are the same for any number of workers, who take them in turn; so are the network's buffers, which are
    rank 0's. Nothing but the order of the sums can differ.
    """
    device = next(network.parameters()).device
    if world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)
    mean, std = torch.tensor(card.mean, device=device), torch.tensor(card.std, device=device)
    tally = EpochMetrics(len(card.classes), device)
    network.eval()
    starts = range(0, len(samples), VALIDATION_BATCH)[rank::world_size]
    for start in starts:
        indices = np.arange(start, min(start + VALIDATION_BATCH, len(samples)))
        images, labels = _to_device(samples.gather(indices), device), _to_device(samples.labels[indices], device)
        with torch.inference_mode(), precision:
            logits = network(normalise(images, mean, std))
        tally.add(logits, labels, cross_entropy(logits.float(), labels, reduction="none"))
    return tally.sums()


def _to_device(array: NDArray[np.uint8] | NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy an array, from pinned memory to a GPU, where nobody waits for the copy."""
    tensor = torch.tensor(array)  # a copy: the array may be Ray's shared memory, which is read-only
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _total_weight(job: TrainingJob, step: int) -> float:
    """Return the sum of the weights of a step's samples, over all workers."""
    samples = job.plan.batch(step)
    if job.class_weights is None:
        return len(samples)
    return float(job.class_weights[torch.from_numpy(job.train.labels[samples])].sum())


def _peak_memory(device: torch.device) -> int:
    """Return the most bytes that this worker has needed: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _out_of_memory(config: Train, plan: SamplePlan) -> str:
    free, total = torch.cuda.mem_get_info()
    half = plan.batch_size // 2
    return (
        f"a GPU's {total / 2**30:.0f} GiB are too small for batches of {plan.batch_size} images in "
        f"{config.train.accumulate} parts ({free / 2**30:.1f} GiB are free); try --train.batch_size {half}, or the "
        f"same with --train.accumulate {2 * config.train.accumulate}"
    )
