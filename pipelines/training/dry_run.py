"""Tries of a training before it begins: whether everything goes, how much memory it takes, how large a batch fits."""

import time
from dataclasses import replace
from pathlib import Path

import ray
import torch
from ray.exceptions import RayTaskError

from overlay.config import Tracking, Train
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError, WorkError, one_line
from overlay.models.pretrained import Weights
from overlay.training.learner import Learner
from overlay.training.losses import class_weights
from overlay.training.run_folder import RunFolder
from overlay.training.sampler import SamplePlan
from pipelines.runtime.placement import Placement
from pipelines.training import image_source
from pipelines.training.monitor import TrainingMonitor
from pipelines.training.trainer import class_counts, create_model_card, run_trainer
from pipelines.training.worker import VALIDATION_BATCH, TrainingJob

CPU_BATCH = 32
LARGEST_BATCH = 1024
"""for one GPU: larger ones train no faster and need other learning rates"""


def choose_batch_size(config: Train, dataset: PreparedDataset, weights: Weights, placement: Placement) -> int:
    """Return the size of a step's batch over all workers: as configured, or with "auto" as large as fits.

    Raises:
        RequestError: "auto" has nothing to try, since there are too few images for so many parts.
        WorkError: not even the smallest batch fits.
    """
    wanted = config.train.batch_size
    if wanted != "auto":
        return int(wanted)
    if placement.device == "cpu":
        return CPU_BATCH
    ask = ray.remote(largest_batch).options(num_gpus=1, max_calls=1)
    samples = sum(class_counts(dataset, "train"))
    try:
        each: int = ray.get(ask.remote(config, len(dataset.card.classes), samples, ray.put(weights)))
    except RayTaskError as error:
        raise WorkError(
            f"train.batch_size auto: not even the smallest batch works ({one_line(error.cause)}); lower input.size, or "
            "choose a smaller model.arch"
        ) from error
    if each == 0:
        raise RequestError(
            f"train.batch_size is auto and train.accumulate is {config.train.accumulate}, which is too much for "
            f"{samples} images; lower it, or give the size of a batch"
        )
    found = each * placement.most_workers
    print(f"train.batch_size auto: {found} ({each} for each GPU)")
    return found


def largest_batch(config: Train, classes: int, samples: int, weights: Weights) -> int:
    """Return the largest power of two whose training step fits into this process's GPU."""
    least, fitting = 2 * config.train.accumulate, 0
    size = 1 << (least - 1).bit_length()
    while size <= min(samples, LARGEST_BATCH):
        plan = SamplePlan(samples=size, batch_size=size, epochs=2, seed=0)
        try:
            learner = Learner(config, classes, weights, plan, torch.device("cuda"))
            learner.begin_epoch(config.train.epochs)  # when most of the network is trained
            images = torch.zeros((size, config.input.size, config.input.size, 3), dtype=torch.uint8, device="cuda")
            for step in range(2):
                learner.step(images, torch.zeros(size, dtype=torch.int64, device="cuda"), step, size)
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            if not fitting:
                raise
            break
        fitting, size = size, size * 2
    return fitting


def run_dry_run(
    config: Train, dataset: PreparedDataset, weights: Weights, placement: Placement, folder: Path, batch_size: int
) -> None:
    """Do all that belongs to a run for a few steps, in a folder of its own, and say what it took.

    Raises:
        WorkError: something doesn't work.
    """
    steps = config.train.dry_run
    once = replace(config, train=replace(config.train, epochs=1), tracking=Tracking(mode="disabled"))
    source = image_source.decode_split(dataset, "train", config.input, limit=steps * batch_size)
    plan = SamplePlan(len(source.labels), batch_size, epochs=1, seed=config.train.seed)
    tried = RunFolder(folder)
    tried.begin(once, dataset.card.fingerprint, batch_size)
    with TrainingMonitor(once, tried, plan, placement, begin=0) as tracker:
        job = TrainingJob(
            config=once,
            card=create_model_card(config, dataset, weights),
            weights=ray.put(weights),
            class_weights=class_weights(config.loss, dataset.card.classes, class_counts(dataset, "train")),
            train=source,
            validation=image_source.decode_split(dataset, "val", config.input, limit=VALIDATION_BATCH),
            plan=plan,
            placement=placement,
            checkpoints=tried.checkpoints,
            board=tracker.board,
        )
        began = time.monotonic()
        run_trainer(job)
        posted = tracker.stop()
    if posted.hopeless:
        raise WorkError(posted.hopeless)
    kind = "GPU memory" if placement.device == "cuda" else "memory"
    print(
        f"dry run: {plan.steps} steps of {plan.smallest_batch} images, a validation and a checkpoint in "
        f"{time.monotonic() - began:.0f} s, start and all; a worker took {posted.memory_bytes / 2**30:.1f} GiB "
        f"of {kind}"
    )
