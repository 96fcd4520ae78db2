"""Training loop of each worker of `pipelines.train`, which Ray Train runs.

A worker resumes from the newest checkpoint, takes the plan's steps one after the other, and after each epoch validates
and saves. All workers hold the same totals and see the same interruptions, so all come to the same decisions.
"""

import resource
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch

from cluster import session
from overlay.errors import WorkError, one_line
from overlay.evaluation import metrics
from overlay.models.device import autocast, use_all_cores, use_deterministic_algorithms
from overlay.models.device_copy import CudaCopyStream
from overlay.models.network import StateDict
from overlay.training import checkpoint
from overlay.training.checkpoint import CheckpointState, CheckpointWriter, TrainingProgress
from overlay.training.device_wait import DeviceWait
from overlay.training.epoch_metrics import EpochMetrics
from overlay.training.history import Epoch, best_epoch
from overlay.training.learner import Learner, LearningTask
from overlay.training.sampler import Worker
from pipelines.runtime.background import BackgroundCall
from pipelines.runtime.shared_disk import SHARED_DISK_ADVICE
from pipelines.training.batch_stream import StreamResources, TrainingBatch, start_stream_process, stream_batches
from pipelines.training.device_batches import DeviceBatch, upload_batches
from pipelines.training.failures import fatal_reason
from pipelines.training.image_source import TrainingData
from pipelines.training.preemption import Decision, Interruptions
from pipelines.training.setup import TrainingJob
from pipelines.training.status_board import TrainingStatus
from pipelines.training.validation import ValidationTask, validate_epoch, validation_batches

POST_SECONDS = 1.0
AHEAD_SHARE = 0.25
"""share of a node's object store for prefetched batches"""


def train_worker(config: dict[str, TrainingJob]) -> None:
    """Train as one of Ray Train's workers, from the newest checkpoint to the end of the training or a stop request."""
    job = config["job"]
    status: TrainingStatus = ray.get(job.board.read.remote())  # type: ignore[assignment]
    if status.fatal_error:
        return
    if not job.sees_run():
        place, node = job.checkpoints.parent, ray.util.get_node_ip_address()
        ray.get(job.board.abort.remote(f"out {place} is not shared with the node {node}; {SHARED_DISK_ADVICE}"))
        raise WorkError("the node has a disk of its own")  # ends the others, too
    context = ray.train.get_context()
    use_all_cores(share=context.get_local_world_size())
    if job.config.train.deterministic:
        use_deterministic_algorithms()
    identity = Worker(context.get_world_rank(), context.get_world_size())
    worker: TrainingWorker | None = None
    try:
        worker = TrainingWorker(job, identity)
        worker.restore()
        worker.run()
    except Exception as error:
        details = traceback.format_exc()
        if (reason := fatal_reason(error)) is None:
            step = 0 if worker is None else worker.step
            ray.get(job.board.post_failure.remote(identity, step, one_line(error), details))
            raise
        ray.get(job.board.abort.remote(reason, details))
        if identity.world_size > 1:
            raise  # else the others would wait for this one


@dataclass(frozen=True)
class _OpenStream:
    """A worker's images: those to validate on, and those to train on with their batches."""

    validation: ray.ObjectRef[TrainingData]
    data: TrainingData
    batches: Iterator[TrainingBatch]


class TrainingWorker:
    """One worker's state in a training run: learner, metrics, history and checkpoint writer."""

    def __init__(self, job: TrainingJob, worker: Worker) -> None:
        self._job, self._worker, self._plan = job, worker, job.plan
        self._newest = ray.train.collective.broadcast_from_rank_zero(checkpoint.newest_checkpoint(job.checkpoints))
        self._step = self._saved_step = checkpoint.checkpoint_step(self._newest)
        self._stream_process = start_stream_process()
        self._opening = BackgroundCall(self._open_stream)  # its first task starts while the network is made
        self._device = ray.train.torch.get_device()
        classes, weights = len(job.card.classes), ray.get(job.weights)
        task = LearningTask(job.config, classes, weights, self._plan, job.class_weights)
        self._learner = Learner(task, self._device, worker)
        self._metrics = EpochMetrics(classes, self._device)
        self._wait = DeviceWait(self._device)
        self._interruptions = Interruptions(job.board, worker)
        copies = CudaCopyStream(self._device) if self._device.type == "cuda" else None
        self._writer = CheckpointWriter(job.checkpoints, copies)
        self._history, self._seconds = list[Epoch](), 0.0
        self._epoch_began = self._posted = 0.0
        self._learning_rate = self._learner.learning_rate

    @property
    def step(self) -> int:
        """Number of steps of the run that are done."""
        return self._step

    def restore(self) -> None:
        """Load the newest checkpoint, if there is one; all workers that of rank 0."""
        if self._newest is None:
            return
        state = checkpoint.load_checkpoint(self._newest, mmap=False)
        self._learner.load_state_dict(state.learner)
        self._history, self._seconds, self._learning_rate = state.history, state.seconds, state.learning_rate
        if self._worker.rank == 0:  # the totals are those of all workers
            self._metrics.load_totals(state.totals)

    def run(self) -> None:
        """Train to the last epoch, to early stopping, or to a stop request; not at all without images."""
        if (stream := self._opening.wait()) is None:
            return
        self._validation, self._data = stream.validation, stream.data
        self._epoch_began = time.monotonic() - self._seconds
        validation_due = len(self._history) < self._step // self._plan.steps_per_epoch
        if self._is_complete() or (validation_due and not self.end_epoch("continue")) or self._is_complete():
            self._writer.wait()
            return
        self._learner.begin_epoch(self._plan.epoch(self._step))
        self._wait.reset()
        for batch in upload_batches(stream.batches, self._device):
            self.train_step(batch)
            decision = self._interruptions.decide(self._step)
            epoch_ended = self._step % self._plan.steps_per_epoch == 0
            if epoch_ended and decision != "stop":
                if not self.end_epoch(decision) or self._is_complete():
                    break
                self._learner.begin_epoch(self._plan.epoch(self._step))
            elif decision != "continue" or self._step % self._job.config.train.checkpoint_steps == 0:
                self.save(decision)
            if decision == "stop":
                break
        self._writer.wait()

    def train_step(self, batch: DeviceBatch) -> None:
        """Take one step of the optimizer; rank 0 posts the progress, at most once a second.

        Raises:
            WorkError: the GPU's memory is too small for the batch.
            OSError: the last checkpoint could not be written.
        """
        images, labels = batch.tensors()
        self._learning_rate = self._learner.learning_rate
        self._writer.raise_error()
        self._wait.begin_step()
        try:
            logits, losses = self._learner.step(images, labels, batch.step, self._total_weight(batch.step))
        except torch.OutOfMemoryError as error:
            raise WorkError(self._describe_out_of_memory()) from error
        self._wait.end_step()
        self._metrics.add(logits, labels, losses)
        self._step = batch.step + 1
        if self._worker.rank == 0 and time.monotonic() - self._posted >= POST_SECONDS:
            self._posted = time.monotonic()
            loss, workers = self._metrics.running_loss(), self._worker.world_size
            self._interruptions.set_pending(self._job.board.post_progress.remote(self._step, loss, workers))

    def end_epoch(self, decision: Decision) -> bool:
        """Validate, add the epoch to the history, and save; False where a stop was requested meanwhile.

        Then the state before the validation is saved, and a resumed run begins with the validation. Ray Train is told
        nothing: its controller takes one report in about two seconds, for which short epochs would wait.
        """
        config, job = self._job.config, self._job
        if self._device.type == "cuda":
            torch.cuda.synchronize()  # steps that are queued there belong to the training's time
        rate, cpus = self._plan.samples / (time.monotonic() - self._epoch_began), session.resources().cpus
        batches = validation_batches(self._validation, self._worker, self._stream_resources())
        task = ValidationTask(batches, job.card, autocast(self._device, config.train.precision))
        validated = validate_epoch(
            self._learner.evaluation_network, task, self._worker, is_stop_requested=self._interruptions.ask
        )
        if validated is None:
            if self._saved_step != self._step:
                self.save("stop")
            return False
        val_loss, val_confusion = validated
        train_loss, train_confusion = self._metrics.compute_and_reset()
        epoch = Epoch(
            epoch=self._step // self._plan.steps_per_epoch,
            train_loss=train_loss,
            train_accuracy=metrics.accuracy(train_confusion),
            val_loss=val_loss,
            val_accuracy=metrics.accuracy(val_confusion),
            val_macro_f1=metrics.macro_f1(val_confusion),
            learning_rate=float(self._learning_rate),
            images_per_second=rate,
            seconds=time.monotonic() - self._epoch_began,
            grad_norm=self._learner.end_epoch(val_loss),
            images_per_core_second=rate / cpus,
            images_per_gpu_second=rate / gpus if (gpus := self._gpus()) else None,
            device_wait_share=self._wait.share(),
        )
        self._history.append(epoch)
        improved = best_epoch(self._history, config.early_stopping) == len(self._history) - 1
        self._epoch_began = time.monotonic()
        self._wait.reset()
        self.save(decision, best=self._learner.evaluation_state_dict() if improved else None)
        job.board.post_memory.remote(_peak_memory(self._device))
        return True

    def save(self, decision: Decision, best: StateDict | None = None) -> None:
        """Write a checkpoint asynchronously (rank 0 does); for a preemption, wait until it is on the disk.

        ``best`` is the state_dict of an epoch that improved. All workers must call it, since totals are all-reduced.

        Raises:
            OSError: the checkpoint, or the one before it, could not be written.
        """
        board, history = self._job.board, list(self._history)
        totals, self._saved_step = self._metrics.all_reduce(), self._step
        if self._worker.rank > 0:
            return
        seconds = time.monotonic() - self._epoch_began
        rate = float(self._learning_rate)
        state = CheckpointState(self._step, self._learner.state_dict(), totals, seconds, history, rate)
        self._writer.submit(state, best, on_written=lambda: board.post_epochs.remote(history))
        if decision == "save":
            self._writer.wait()
            board.post_saved_step.remote(self._step)

    def _gpus(self) -> float:
        """Return the number of GPUs of all workers; 0 on CPUs."""
        return self._worker.world_size * self._job.config.cluster.gpus_per_worker if self._device.type == "cuda" else 0

    def _is_complete(self) -> bool:
        return TrainingProgress(self._step, self._history).is_complete(self._plan, self._job.config.early_stopping)

    def _open_stream(self) -> "_OpenStream | None":
        """Wait for the images, and start the stream of batches from the next step on; None where none will come."""
        if (images := self._job.wait_for_images()) is None:
            return None
        augmentation, start = self._job.config.augment, self._step
        batches = stream_batches(
            images.train, augmentation, self._worker, start=start, resources=self._stream_resources()
        )
        return _OpenStream(images.validation, ray.get(images.train), batches)

    def _stream_resources(self) -> StreamResources:
        """Return the resources of the training's stream; that of a validation may take as much beside it."""
        cluster = session.resources()
        share = AHEAD_SHARE * cluster.store_bytes / ray.train.get_context().get_local_world_size()
        placement = self._job.placement
        cpus = placement.data_cpus(self._worker.world_size, cluster)
        return StreamResources(self._stream_process, cpus, share, placement.task_cpus)

    def _total_weight(self, step: int) -> float:
        """Return the sum of the weights of a step's samples, over all workers."""
        samples, weights = self._data.plan.batch(step), self._job.class_weights
        if weights is None:
            return len(samples)
        return float(weights[torch.from_numpy(self._data.source.labels[samples])].sum())

    def _describe_out_of_memory(self) -> str:
        """Return the error of a GPU whose memory is too small, with options that need less."""
        free, total = torch.cuda.mem_get_info()
        batch_size, parts = self._plan.batch_size, self._job.config.train.accumulate
        return (
            f"a GPU's {total / 2**30:.0f} GiB are too small for batches of {batch_size} images in "
            f"{parts} parts ({free / 2**30:.1f} GiB are free); try --train.batch_size {batch_size // 2}, or the "
            f"same with --train.accumulate {2 * parts}"
        )


def _peak_memory(device: torch.device) -> int:
    """Return this worker's peak memory in bytes: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
