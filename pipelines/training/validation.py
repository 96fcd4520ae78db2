"""Validation of a network in training, divided over the workers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from overlay.models.model_file import ModelCard
from overlay.models.network import normalise
from overlay.training.epoch_metrics import EpochMetrics
from overlay.training.sampler import SINGLE_WORKER, SequentialPlan, Worker
from pipelines.training.batch_stream import StreamResources, TrainingBatch, stream_validation
from pipelines.training.device_batches import upload_batches
from pipelines.training.image_source import DecodedImages, ImageSource, TrainingData

VALIDATION_BATCH = 32
"""images that a CPU validates at once, and a GPU at least"""


def validation_batch_size(device: str, trained: int) -> int:
    """Return how many images are validated at once: on a GPU, whose memory holds them, those of a training's pass."""
    return max(VALIDATION_BATCH, trained) if device == "cuda" else VALIDATION_BATCH


def plan_validation(source: ImageSource, batch_size: int) -> TrainingData:
    """Return a split's images with the batches of a validation, at most ``batch_size`` images each."""
    return TrainingData(source, SequentialPlan(len(source.labels), batch_size))


def validation_batches(
    stored: ray.ObjectRef[TrainingData], worker: Worker, resources: StreamResources
) -> Iterator[TrainingBatch]:
    """Yield the batches that one worker validates: of images in the object store from there, else read by data tasks.

    ``stored`` is made by `plan_validation`. The batches are the same wherever the images are.
    """
    data = ray.get(stored)
    source, plan = data.source, data.plan
    assert isinstance(plan, SequentialPlan)
    steps = plan.worker_steps(worker)
    if not isinstance(source, DecodedImages):
        yield from stream_validation(stored, steps, resources)
        return
    for step, images in zip(steps, source.read(plan, steps, SINGLE_WORKER), strict=True):
        yield TrainingBatch(step, images, source.labels[plan.batch(step)])


@dataclass(frozen=True)
class ValidationTask:
    """One worker's batches, classes and precision of a validation."""

    batches: Iterable[TrainingBatch]
    card: ModelCard
    precision: torch.autocast


def validate_epoch(
    network: nn.Module, task: ValidationTask, worker: Worker, is_stop_requested: Callable[[], bool] = lambda: False
) -> tuple[float, NDArray[np.int64]] | None:
    """Return the mean loss and the confusion matrix of all samples over all workers, who must all call it.

    The batches are the same for any number of workers, who each take some that follow each other; so are the network's
    buffers, which are rank 0's. Results for different numbers of workers differ only by the order of the sums. None for
    all workers, where ``is_stop_requested``, which is called before each batch, returned true at one of them.
    """
    card = task.card
    device = next(network.parameters()).device
    if worker.world_size > 1:
        _broadcast_buffers(network)
    mean, std = torch.tensor(card.mean, device=device), torch.tensor(card.std, device=device)
    totals = EpochMetrics(len(card.classes), device)
    network.eval()
    stopped = False
    for batch in upload_batches(task.batches, device):
        if stopped := is_stop_requested():
            break
        images, labels = batch.tensors()
        with torch.inference_mode(), task.precision:
            logits = network(normalise(images, mean, std))
        totals.add(logits, labels, cross_entropy(logits.float(), labels, reduction="none"))
    return None if _any_worker(stopped, worker, device) else totals.compute_and_reset()


def _broadcast_buffers(network: nn.Module) -> None:
    """Give all workers rank 0's buffers, by one exchange for each type of numbers; they must all call it."""
    buffers = list(network.buffers())
    for dtype in dict.fromkeys(buffer.dtype for buffer in buffers):
        same = [buffer for buffer in buffers if buffer.dtype == dtype]
        flat = torch.cat([buffer.flatten() for buffer in same])
        torch.distributed.broadcast(flat, src=0)
        for buffer, values in zip(same, torch.split(flat, [buffer.numel() for buffer in same]), strict=True):
            buffer.copy_(values.view_as(buffer))


def _any_worker(flag: bool, worker: Worker, device: torch.device) -> bool:
    """Whether a flag is set at any of the workers, who must all call it."""
    if worker.world_size == 1:
        return flag
    number = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(number)
    return bool(number.item())
