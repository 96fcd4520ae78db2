"""From a request to workers that train: where the images come from, in which order, and Ray Train's part."""

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from cluster import session
from overlay import __version__
from overlay.config import Train
from overlay.config.train import check_share
from overlay.dataset.prepared import PreparedDataset
from overlay.errors import RequestError, WorkError
from overlay.models import model_file
from overlay.models.pretrained import Weights
from overlay.training.sampler import SamplePlan
from overlay.training.windowed_sampler import WindowedSamplePlan
from overlay.version import code_fingerprint
from pipelines.training import image_source, shard_source
from pipelines.training.worker import TrainingJob, train_worker

RAY_FOLDER = "ray"
"""where Ray Train keeps its own notes, beside the checkpoints; nothing is read from there"""
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""a worker's settings of glibc, which else gives a step's large tensors back to the kernel and asks for them anew, page
by page, in the next: 70,000 page faults a step of a ResNet101 at 128 pixels, and up to 8 % of its time"""
MISSING_MINUTES = 10
"""Ray Train tries once a minute to start workers that the cluster has no room for"""


def class_counts(dataset: PreparedDataset, split: str) -> list[int]:
    """Return how many images of each class a split has."""
    return [dataset.card.counts[name][split] for name in dataset.card.classes]


def create_sample_plan(
    config: Train, dataset: PreparedDataset, batch_size: int
) -> tuple[image_source.ImageSource, SamplePlan]:
    """Find the training images, and plan when which of them comes.

    Raises:
        RequestError: batches are too small for the workers, or the options don't go with so large a dataset.
        WorkError: an image of the dataset can't be decoded.
    """
    samples = sum(class_counts(dataset, "train"))
    loop = config.train
    smallest = SamplePlan(samples, batch_size, loop.epochs, loop.seed).smallest_batch
    check_share(smallest, loop.most_workers, loop.accumulate)
    images = samples + sum(class_counts(dataset, "val"))
    if shard_source.fits_in_memory(images, config.input, session.resources()):
        decoded = image_source.decode_split(dataset, "train", config.input)
        labels = tuple(decoded.labels.tolist()) if loop.balanced else None
        return decoded, SamplePlan(samples, batch_size, loop.epochs, loop.seed, labels)
    if loop.balanced:
        raise RequestError(
            f"train.balanced needs the images in memory, and {images} of input.size {config.input.size} are too many "
            "for the cluster's; use loss.class_weights instead"
        )
    source = shard_source.open_shards(dataset, "train", config.input)
    sizes = tuple(map(len, source.rows))
    window = max(1, loop.shuffle_window // batch_size)
    plan = WindowedSamplePlan(samples, batch_size, loop.epochs, loop.seed, shards=sizes, window=window)
    print(f"{images} images are too many for the cluster's memory; they are read anew each epoch, and shuffled among")
    print(f"  the {window * batch_size} that follow each other in shards of random order (train.shuffle_window)")
    return source, plan


def create_model_card(config: Train, dataset: PreparedDataset, weights: Weights) -> model_file.ModelCard:
    """Write down all that using the model will need."""
    return model_file.ModelCard(
        arch=config.model.arch,
        classes=tuple(dataset.card.classes),
        size=config.input.size,
        resize=config.input.resize,
        mean=weights.mean,
        std=weights.std,
        overlay=dataset.card.request.overlay,
        dataset=dataset.card.fingerprint,
        weights=config.model.weights,
        version=__version__,
        code=code_fingerprint(),
        max_pixels=dataset.card.request.max_pixels,
    )


def run_trainer(job: TrainingJob) -> None:
    """Let Ray Train run the workers to the end, and start them again where one dies or a node goes.

    Raises:
        WorkError: they failed too often, or there was no room for them for too long.
    """
    placement = job.placement
    gpu = placement.device == "cuda"
    workers = (placement.least_workers, placement.most_workers)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers if workers[0] < workers[1] else workers[0],  # type: ignore[arg-type]  # as V2 has it
            use_gpu=gpu,
            resources_per_worker=placement.bundle,
        ),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=str(job.checkpoints),
            worker_runtime_env={"env_vars": KEEP_FREED_MEMORY},
            failure_config=FailureConfig(max_failures=10, controller_failure_limit=MISSING_MINUTES),  # type: ignore[call-arg]
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        reason = placement.describe_shortage(session.resources()) or _reason(error)
        raise WorkError(f"training stopped: {reason}; the same command goes on from the newest checkpoint") from error


def _reason(error: TrainingFailedError) -> str:
    """Return the last line of the first worker's error."""
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    return str(first).strip().splitlines()[-1]
