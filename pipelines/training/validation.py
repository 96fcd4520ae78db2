"""Validation of a network in training, divided over the workers."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from overlay.models.model_file import ModelCard
from overlay.models.network import normalise
from overlay.training.epoch_metrics import EpochMetrics
from overlay.training.sampler import Worker
from pipelines.training.image_source import DecodedImages

VALIDATION_BATCH = 32


def validate_epoch(
    network: nn.Module, samples: DecodedImages, card: ModelCard, precision: torch.autocast, worker: Worker
) -> tuple[float, NDArray[np.int64]]:
    """Return the mean loss and the confusion matrix of ``samples`` over all workers, who must all call it.

    The batches are the same for any number of workers, who take them in turn; so are the network's buffers, which are
    rank 0's. Results for different numbers of workers differ only by the order of the sums.
    """
    device = next(network.parameters()).device
    if worker.world_size > 1:
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)
    mean, std = torch.tensor(card.mean, device=device), torch.tensor(card.std, device=device)
    totals = EpochMetrics(len(card.classes), device)
    network.eval()
    starts = range(0, len(samples), VALIDATION_BATCH)[worker.rank :: worker.world_size]
    for start in starts:
        indices = np.arange(start, min(start + VALIDATION_BATCH, len(samples)))
        images = copy_to_device(samples.gather(indices), device)
        labels = copy_to_device(samples.labels[indices], device)
        with torch.inference_mode(), precision:
            logits = network(normalise(images, mean, std))
        totals.add(logits, labels, cross_entropy(logits.float(), labels, reduction="none"))
    return totals.compute_and_reset()


def copy_to_device(array: NDArray[np.uint8] | NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy an array to a device; to a GPU asynchronously, from pinned memory."""
    tensor = torch.tensor(array)  # a copy: the array may be Ray's shared memory, which is read-only
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
