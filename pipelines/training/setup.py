"""Typed data of a training run: the setup from a request, the images with their plans, and the workers' job."""

from dataclasses import dataclass

import ray
from ray.actor import ActorHandle
from torch import Tensor

from cluster import session
from overlay import __version__
from overlay.config import Train
from overlay.dataset.prepared import PreparedDataset
from overlay.images.depth import GREY_SCALING
from overlay.models.model_file import ModelCard
from overlay.models.pretrained import Weights
from overlay.storage.path import StoragePath
from overlay.training.losses import class_weights
from overlay.training.run_folder import RunFacts, RunFolder
from overlay.training.sampler import SamplePlan, WindowedSamplePlan
from overlay.version import code_fingerprint
from pipelines.runtime.placement import Placement
from pipelines.training import image_source, shard_source
from pipelines.training.image_source import ImageSource, TrainingData
from pipelines.training.status_board import IMAGES_GROUP, RunImageRefs, StatusBoard
from pipelines.training.validation import plan_validation, validation_batch_size


@dataclass(frozen=True)
class TrainingSetup:
    """Checked request of a training run, with all that it refers to loaded."""

    config: Train
    dataset: PreparedDataset
    card: ModelCard
    """card of the model that the run will make"""
    weights: Weights
    placement: Placement

    @classmethod
    def create(cls, config: Train, dataset: PreparedDataset, weights: Weights, placement: Placement) -> "TrainingSetup":
        """Make a setup, with the model's card."""
        card = ModelCard(
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
            fold=dataset.fold,
            grey_scaling=GREY_SCALING,
            bits=dataset.card.request.images.bits,
            max_side=dataset.card.request.max_side,
        )
        return cls(config, dataset, card, weights, placement)

    def class_counts(self, split: str) -> list[int]:
        """Return how many images of each class a split has."""
        return [self.dataset.card.counts[name][split] for name in self.dataset.card.classes]


@dataclass(frozen=True)
class RunImages:
    """References of the training and the validation images, stored once for all workers and their data tasks.

    The driver owns them. Labels and positions of a large dataset would be pickled for each use otherwise.
    """

    train: ray.ObjectRef[TrainingData]
    validation: ray.ObjectRef[TrainingData]
    """see `pipelines.training.validation.plan_validation`"""

    @classmethod
    def create(cls, setup: TrainingSetup, train: TrainingData, validation: ImageSource) -> "RunImages":
        """Store where the images are, with their plans."""
        passes = setup.placement.most_workers * setup.config.train.accumulate
        batch_size = validation_batch_size(setup.placement.device, train.plan.batch_size // passes)
        return cls(ray.put(train), ray.put(plan_validation(validation, batch_size)))


def plan_steps(setup: TrainingSetup, batch_size: int) -> SamplePlan:
    """Return the epochs, steps and sizes of batches of a run, known before its images are decoded; not their order."""
    return SamplePlan(sum(setup.class_counts("train")), batch_size, setup.config.train.epochs, setup.config.train.seed)


def store_run_images(setup: TrainingSetup, facts: RunFacts) -> RunImages:
    """Decode the training and validation images into the object store, or locate them in the shards, as the run began.

    Raises:
        WorkError: an image of the dataset can't be decoded.
    """
    return RunImages.create(setup, _open_training_data(setup, facts), _open_validation_images(setup))


def _open_training_data(setup: TrainingSetup, facts: RunFacts) -> TrainingData:
    """Decode the training images into the object store, or locate them in the shards; and plan their order.

    Which of the two was decided when the run began. Images that don't fit into this object store are spilled to disk.
    """
    config, dataset, loop, batch_size = setup.config, setup.dataset, setup.config.train, facts.batch_size
    samples = sum(setup.class_counts("train"))
    if facts.order == "memory":
        decoded = image_source.decode_split(dataset, "train", config.input)
        labels = tuple(decoded.labels.tolist()) if loop.balanced else None
        return TrainingData(decoded, SamplePlan(samples, batch_size, loop.epochs, loop.seed, labels))
    source = shard_source.open_shards(dataset, "train", config.input)
    sizes = tuple(map(len, source.rows))
    window, parts = max(1, loop.shuffle_window * facts.workers // batch_size), facts.workers
    plan = WindowedSamplePlan(samples, batch_size, loop.epochs, loop.seed, shards=sizes, window=window, parts=parts)
    print(f"{samples} images are too many for the cluster's memory; they are read anew each epoch, and shuffled among")
    print(
        f"  the {window * batch_size // parts} that follow each other in shards of random order (train.shuffle_window)"
    )
    return TrainingData(source, plan)


def _open_validation_images(setup: TrainingSetup) -> ImageSource:
    """Decode the validation images into the object store, or locate them in the shards where they don't fit there.

    Both give the same batches, so this is decided anew by each command that resumes a run.
    """
    images = sum(setup.class_counts("val"))
    if shard_source.fits_in_memory(images, setup.config.input, session.resources()):
        return image_source.decode_split(setup.dataset, "val", setup.config.input, as_stored=True)
    print(f"{images} validation images are too many for the cluster's memory; they are read anew after each epoch")
    return shard_source.open_shards(setup.dataset, "val", setup.config.input)


@dataclass(frozen=True)
class TrainingJob:
    """Input of every training worker; they start while the images are decoded."""

    config: Train
    card: ModelCard
    weights: ray.ObjectRef[Weights]
    class_weights: Tensor | None
    """float32 (classes,)"""
    plan: SamplePlan
    """steps and epochs, see `plan_steps`"""
    images: ray.ObjectRef[RunImageRefs | None]
    """answer of the board, see `wait_for_images`"""
    placement: Placement
    checkpoints: StoragePath
    tracking_id: str
    """of the run, by which a worker recognises its folder"""
    board: ActorHandle[StatusBoard]

    @classmethod
    def create(
        cls, setup: TrainingSetup, plan: SamplePlan, checkpoints: StoragePath, board: ActorHandle[StatusBoard]
    ) -> "TrainingJob":
        """Make the job of a setup; puts the weights into the object store.

        Raises:
            RequestError: loss.class_weights is balanced, and a class has no training image.
        """
        return cls(
            config=setup.config,
            card=setup.card,
            weights=ray.put(setup.weights),
            class_weights=class_weights(setup.config.loss, setup.card.classes, setup.class_counts("train")),
            plan=plan,
            images=board.await_images.options(concurrency_group=IMAGES_GROUP, max_task_retries=-1).remote(),
            placement=setup.placement,
            checkpoints=checkpoints,
            tracking_id=RunFolder(checkpoints.parent).tracking_id,
            board=board,
        )

    def give_images(self, images: RunImages) -> None:
        """Let the workers have the images."""
        self.board.give_images.options(max_task_retries=-1).remote((images.train, images.validation))

    def wait_for_images(self) -> RunImages | None:
        """Return the images, once they are stored; None where the run was aborted before."""
        given = ray.get(self.images)
        return None if given is None else RunImages(*given)

    def sees_run(self) -> bool:
        """Whether this node sees the run's folder; one that joined later may have a disk of its own there."""
        folder = RunFolder(self.checkpoints.parent)
        return folder.path.in_bucket or (folder.has_begun and folder.tracking_id == self.tracking_id)
