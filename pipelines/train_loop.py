"""The training loop: what each worker of `pipelines.train` does.

It begins at the newest checkpoint, takes the plan's steps one after the other, and after each epoch validates, saves
and reports. All workers hold the same totals, so all of them come to the same decisions without asking each other.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch
from numpy.typing import NDArray
from ray.actor import ActorHandle
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from overlay import history, metrics, model
from overlay.config import Train
from overlay.device import autocast, use_all_cores
from overlay.history import Epoch
from overlay.network import build, normalise
from overlay.optimization import build_optimizer
from overlay.plan import Plan
from overlay.pretrained import Weights, initialise
from overlay.schedule import Schedule
from overlay.tally import Tally
from pipelines import checkpoint, ingest
from pipelines.placement import Placement
from pipelines.tracker import Board

VALIDATION_BATCH = 32


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    config: Train
    card: model.ModelCard
    weights: ray.ObjectRef[Weights]
    train: ingest.Samples
    validation: ingest.Samples
    plan: Plan
    placement: Placement
    checkpoints: Path
    attempt: Path
    """folder of this command's checkpoints"""
    board: ActorHandle[Board]


def train_worker(config: dict[str, Job]) -> None:
    """Train as one of the workers, from the newest checkpoint to the last epoch or to the early stop."""
    job = config["job"]
    settings, plan = job.config, job.plan
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    use_all_cores(share=context.get_local_world_size())
    torch.manual_seed(settings.train.seed)

    network = build(settings.model.arch, len(job.card.classes), settings.model.dropout)
    initialise(network, ray.get(job.weights))
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = build_optimizer(network, settings.optimizer)
    schedule = Schedule(optimizer, settings.optimizer, plan.steps, plan.steps_per_epoch)
    step, epochs = 0, list[Epoch]()
    previous = checkpoint.newest(job.checkpoints)
    if previous is not None:
        state = checkpoint.load(previous, "last.pt", device)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        step, epochs = state["step"], checkpoint.history(previous)
    if step == plan.steps or history.should_stop(epochs, settings.early_stopping):
        return

    trained = DistributedDataParallel(network) if world_size > 1 else network
    precision = autocast(device, settings.train.precision)
    mean, std = torch.tensor(job.card.mean, device=device), torch.tensor(job.card.std, device=device)
    tally = Tally(len(job.card.classes), device)
    batches = ingest.stream(
        job.train,
        plan,
        settings.augment,
        rank=rank,
        world_size=world_size,
        start=step,
        cpus=job.placement.data_cpus / world_size,
    )
    began = time.monotonic()
    for batch in batches:
        trained.train()
        images = torch.from_numpy(batch.images).to(device, non_blocking=True)
        labels = torch.from_numpy(batch.labels).to(device, non_blocking=True)
        with precision:
            logits = trained(normalise(images, mean, std))
        losses = cross_entropy(logits.float(), labels, reduction="none")
        # The gradient of the mean over the whole batch: the workers' shares of it differ in size, and DDP averages.
        (losses.sum() * (world_size / len(plan.batch(batch.step)))).backward()
        learning_rate = schedule.learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        tally.add(logits, labels, losses)
        step = batch.step + 1
        if rank == 0:
            job.board.post_step.remote(step)
        if step % plan.steps_per_epoch:
            continue

        train_loss, train_confusion = tally.sums()
        trained_for = time.monotonic() - began
        val_loss, val_confusion = validate(network, job.validation, job.card, precision, rank, world_size)
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
        )
        epochs.append(epoch)
        saved = None
        if rank == 0:
            weights = network.state_dict()
            state = {"network": weights, "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            state |= {"step": step, "history": [asdict(each) for each in epochs]}
            improved = history.best_epoch(epochs, settings.early_stopping) == len(epochs) - 1
            saved = checkpoint.write(job.checkpoints, state, weights if improved else None, previous)
            previous = job.attempt / checkpoint.name(step)
        ray.train.report(
            asdict(epoch),
            checkpoint=saved,
            checkpoint_dir_name=checkpoint.name(step),
            checkpoint_upload_fn=checkpoint.commit_into(job.attempt),
        )
        if rank == 0:
            job.board.post_epochs.remote(epochs)
        # Every worker has the same totals, so all of them leave at the same step.
        if history.should_stop(epochs, settings.early_stopping):
            return
        began = time.monotonic()


def validate(
    network: nn.Module,
    samples: ingest.Samples,
    card: model.ModelCard,
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
    tally = Tally(len(card.classes), device)
    network.eval()
    starts = range(0, len(samples), VALIDATION_BATCH)[rank::world_size]
    for start in starts:
        indices = np.arange(start, min(start + VALIDATION_BATCH, len(samples)))
        images = torch.from_numpy(samples.gather(indices)).to(device)
        labels = torch.from_numpy(samples.labels[indices]).to(device)
        with torch.inference_mode(), precision:
            logits = network(normalise(images, mean, std))
        tally.add(logits, labels, cross_entropy(logits.float(), labels, reduction="none"))
    return tally.sums()
