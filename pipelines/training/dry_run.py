"""Dry run of a training, and the search for the largest batch size that fits into a GPU's memory."""

import time
from dataclasses import replace

import ray
import torch
from ray.exceptions import RayTaskError

from overlay.config import Tracking, Train
from overlay.errors import RequestError, WorkError, one_line
from overlay.models.pretrained import Weights
from overlay.storage.path import StoragePath
from overlay.storage.transfer import scratch_folder
from overlay.training.learner import Learner, LearningTask
from overlay.training.run_folder import RunFacts, RunFolder
from overlay.training.sampler import SamplePlan
from pipelines.runtime.gpu_call import call_on_gpu
from pipelines.training.device_batches import GPU_BATCHES_AHEAD
from pipelines.training.image_source import TrainingData, decode_split
from pipelines.training.monitor import TrainingMonitor
from pipelines.training.setup import RunImages, TrainingJob, TrainingSetup
from pipelines.training.trainer import run_trainer
from pipelines.training.validation import VALIDATION_BATCH

CPU_BATCH = 32
LARGEST_BATCH = 1024
"""for one GPU: larger ones train no faster and need other learning rates"""


def choose_batch_size(setup: TrainingSetup) -> int:
    """Return the batch size over all workers: as configured, or with "auto" the largest that fits into the GPUs.

    Raises:
        RequestError: the size is "auto" and no batch can be tried, since there are fewer images than train.accumulate
            needs.
        WorkError: the size is "auto" and not even the smallest batch fits.
    """
    loop, placement = setup.config.train, setup.placement
    if loop.batch_size != "auto":
        return int(loop.batch_size)
    if placement.device == "cpu":
        return CPU_BATCH
    classes, samples = len(setup.card.classes), sum(setup.class_counts("train"))
    try:
        each = call_on_gpu(find_largest_batch, setup.config, classes, samples, ray.put(setup.weights))
    except RayTaskError as error:
        raise WorkError(
            f"train.batch_size auto: not even the smallest batch works ({one_line(error.cause)}); lower input.size, or "
            "choose a smaller model.arch"
        ) from error
    if each == 0:
        raise RequestError(
            f"train.batch_size is auto and train.accumulate is {loop.accumulate}, which is too much for "
            f"{samples} images; lower it, or give the size of a batch"
        )
    found = each * placement.most_workers
    print(f"train.batch_size auto: {found} ({each} for each GPU)")
    return found


def find_largest_batch(config: Train, classes: int, samples: int, weights: Weights) -> int:
    """Return the largest power of two whose training step fits into this process's GPU; 0 where none can be tried.

    Raises:
        torch.OutOfMemoryError: not even the smallest batch fits.
    """
    least, fitting = 2 * config.train.accumulate, 0
    size = 1 << (least - 1).bit_length()
    while size <= min(samples, LARGEST_BATCH):
        plan = SamplePlan(samples=size, batch_size=size, epochs=2, seed=0)
        try:
            learner = Learner(LearningTask(config, classes, weights, plan), torch.device("cuda"))
            learner.begin_epoch(config.train.epochs)  # when most of the network is trained
            shape = (1 + GPU_BATCHES_AHEAD, size, config.input.size, config.input.size, 3)
            images = torch.zeros(shape, dtype=torch.uint8, device="cuda")  # with those that are copied ahead
            for step in range(2):
                learner.step(images[0], torch.zeros(size, dtype=torch.int64, device="cuda"), step, size)
            torch.cuda.synchronize()
        except torch.OutOfMemoryError:
            if not fitting:
                raise
            break
        fitting, size = size, size * 2
    return fitting


def run_dry_run(setup: TrainingSetup, facts: RunFacts, parent: StoragePath) -> None:
    """Train for a few steps, with a validation and a checkpoint, and print the time and the memory they took.

    Files go to a temporary folder in ``parent``, which is made if it does not exist.

    Raises:
        WorkError: the training failed.
    """
    config = replace(setup.config, train=replace(setup.config.train, epochs=1), tracking=Tracking(mode="disabled"))
    setup = replace(setup, config=config)
    images = config.train.dry_run * facts.batch_size
    samples = min(images, sum(setup.class_counts("train")))
    plan = SamplePlan(samples, facts.batch_size, epochs=1, seed=config.train.seed)

    def store() -> RunImages:
        source = decode_split(setup.dataset, "train", config.input, limit=images)
        validation = decode_split(setup.dataset, "val", config.input, limit=VALIDATION_BATCH)
        return RunImages.create(setup, TrainingData(source, plan), validation)

    with scratch_folder(parent) as scratch:
        folder = RunFolder(scratch)
        folder.begin(config, setup.dataset.card.fingerprint, facts)
        with TrainingMonitor(setup, folder, plan, begin=0) as monitor:
            job = TrainingJob.create(setup, plan, folder.checkpoints, monitor.board)
            began = time.monotonic()
            run_trainer(job, store, lambda: False)
            status = monitor.stop()
    if status.fatal_error:
        raise WorkError(status.fatal_error)
    kind = "GPU memory" if setup.placement.device == "cuda" else "memory"
    print(
        f"dry run: {plan.steps} steps of {plan.smallest_batch} images, a validation and a checkpoint in "
        f"{time.monotonic() - began:.0f} s, start and all; a worker took {status.memory_bytes / 2**30:.1f} GiB "
        f"of {kind}"
    )
