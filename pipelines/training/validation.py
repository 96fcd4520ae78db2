"""Validation of a network in training, divided over the workers."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from overlay.models.device_copy import DeviceCopier
from overlay.models.model_file import ModelCard
from overlay.models.network import normalise
from overlay.training.epoch_metrics import EpochMetrics
from overlay.training.sampler import Worker
from pipelines.training.image_source import DecodedImages

VALIDATION_BATCH = 32


@dataclass(frozen=True)
class ValidationTask:
    """Images, classes and precision of a validation."""

    samples: DecodedImages
    card: ModelCard
    precision: torch.autocast


def validate_epoch(
    network: nn.Module, task: ValidationTask, worker: Worker, is_stop_requested: Callable[[], bool] = lambda: False
) -> tuple[float, NDArray[np.int64]] | None:
    """Return the mean loss and the confusion matrix of all samples over all workers, who must all call it.

    The batches are the same for any number of workers, who take them in turn; so are the network's buffers, which are
    rank 0's. Results for different numbers of workers differ only by the order of the sums. None for all workers, where
    ``is_stop_requested``, which is called before each batch, returned true at one of them.
    """
    samples, card = task.samples, task.card
    device = next(network.parameters()).device
    if worker.world_size > 1:
        _broadcast_buffers(network)
    mean, std = torch.tensor(card.mean, device=device), torch.tensor(card.std, device=device)
    totals, copier = EpochMetrics(len(card.classes), device), DeviceCopier(device)
    network.eval()
    stopped = False
    for start in range(0, len(samples), VALIDATION_BATCH)[worker.rank :: worker.world_size]:
        if stopped := is_stop_requested():
            break
        indices = np.arange(start, min(start + VALIDATION_BATCH, len(samples)))
        images = copier.upload(samples.gather(indices)).tensor()
        labels = copier.upload(samples.labels[indices]).tensor()
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
