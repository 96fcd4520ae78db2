"""Checks of a training's options against its dataset and the cluster, all of them before anything is written."""

from cluster import session
from overlay.config import SPLITS, Train
from overlay.config.train import check_share
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError
from overlay.sources.labelled import ClassCounts
from overlay.training.losses import class_weights
from overlay.training.sampler import SamplePlan
from pipelines.runtime.placement import Placement
from pipelines.training.shard_source import fits_in_memory


def check_device(config: Train, placement: Placement) -> None:
    """Check that the device supports the options.

    Raises:
        RequestError: train.precision is fp16 or train.sync_batch_norm is set, and the device is a CPU.
    """
    if placement.device == "cpu":
        if config.train.precision == "fp16":
            raise RequestError("train.precision is fp16, which needs a GPU; choose bf16 or fp32")
        if config.train.sync_batch_norm:
            raise RequestError("train.sync_batch_norm needs GPUs; --model.freeze_norm does without statistics")


def check_listed_images(config: Train, counts: ClassCounts) -> None:
    """Check the options against the images of a folder, before these are decoded for a dataset.

    Raises:
        RequestError: calibration.positive is no class, or there are too few images for the workers.
    """
    config.calibration.positive_class(counts.classes)
    check_share(sum(counts.usable.values()), config.train.most_workers, config.train.accumulate)


def check_training(config: Train, dataset: PreparedDataset, placement: Placement) -> None:
    """Check the options of a training, but for its batches, against the dataset and the cluster.

    Raises:
        RequestError: the device lacks what an option needs; a split is empty; calibration.positive is no class;
            loss.class_weights is balanced and a class has no training image; train.balanced is set and the images don't
            fit into the cluster's memory.
    """
    check_device(config, placement)
    config.calibration.positive_class(dataset.card.classes)
    for split in SPLITS:
        if not any(counts[split] for counts in dataset.card.counts.values()):
            raise RequestError(f"{config.dataset} has no image in the split {split}; training needs all three")
    counts = dataset.card.counts
    class_weights(config.loss, dataset.card.classes, [counts[name]["train"] for name in dataset.card.classes])
    if config.train.balanced and not trains_in_memory(config, dataset):
        raise RequestError(
            f"train.balanced needs the images in memory, and those of {config.dataset} of input.size "
            f"{config.input.size} are too many for the cluster's; use loss.class_weights instead"
        )


def check_batches(config: Train, dataset: PreparedDataset, batch_size: int) -> None:
    """Check that the smallest batch has enough images for all workers.

    Raises:
        RequestError: it has not.
    """
    loop = config.train
    samples = sum(counts["train"] for counts in dataset.card.counts.values())
    smallest = SamplePlan(samples, batch_size, loop.epochs, loop.seed).smallest_batch
    check_share(smallest, loop.most_workers, loop.accumulate)


def trains_in_memory(config: Train, dataset: PreparedDataset) -> bool:
    """Whether the decoded images of training and validation fit into the cluster's memory."""
    images = sum(counts["train"] + counts["val"] for counts in dataset.card.counts.values())
    return fits_in_memory(images, config.input, session.resources())
