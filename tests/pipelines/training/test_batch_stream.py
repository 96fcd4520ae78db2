import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from overlay.config import MAX_PIXELS, Augment, Input, Prepare
from overlay.dataset.prepared import PreparedDataset
from overlay.images.augment import augment, augmentation_generator
from overlay.sources.split_reading import decode_stored
from overlay.training.sampler import SINGLE_WORKER, SamplePlan, WindowedSamplePlan, Worker
from pipelines import prepare
from pipelines.training import batch_stream, image_source, shard_source
from pipelines.training.batch_stream import (
    StreamProcess,
    StreamResources,
    TrainingBatch,
    start_stream_process,
    stream_batches,
)
from pipelines.training.image_source import DecodedImages, ImageSource, TrainingData
from pipelines.training.validation import plan_validation, validation_batches

INPUT = Input(size=32)


@pytest.fixture(scope="module")
def process(dataset: PreparedDataset) -> ActorHandle[StreamProcess]:
    """The process of all streams; the dataset is one that Ray has made."""
    return start_stream_process()


@pytest.fixture(scope="module")
def resources(process: ActorHandle[StreamProcess]) -> StreamResources:
    return StreamResources(process, cpus=1, ahead_bytes=2**26)


@pytest.fixture(scope="module")
def small_shards(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The same images in shards of five rows."""
    out = tmp_path_factory.mktemp("small-shards") / "dataset"
    return prepare.run(Prepare(sources=dataset.card.request.sources, out=str(out), shard_rows=5))


@pytest.fixture(scope="module")
def in_memory(dataset: PreparedDataset) -> DecodedImages:
    return image_source.decode_split(dataset, "train", INPUT)


@pytest.fixture(scope="module")
def on_disk(small_shards: PreparedDataset) -> shard_source.ShardSource:
    return shard_source.open_shards(small_shards, "train", INPUT)


def batches(
    source: ImageSource,
    plan: SamplePlan,
    resources: StreamResources,
    worker: Worker = SINGLE_WORKER,
    start: int = 0,
) -> list[TrainingBatch]:
    stored = ray.put(TrainingData(source, plan))
    return list(stream_batches(stored, Augment(), worker, start=start, resources=resources))


def check(
    streamed: list[TrainingBatch],
    plan: SamplePlan,
    labels: NDArray[np.int64],
    image: Callable[[int], NDArray[np.uint8]],
) -> None:
    """Compare a stream with what the plan says, worked out one image after the other."""
    assert [batch.step for batch in streamed] == list(range(plan.steps))
    for batch in streamed:
        samples, repeats = plan.batch(batch.step), plan.repeats(batch.step)
        assert batch.labels.tolist() == labels[samples].tolist()
        expected = [
            augment(image(sample), Augment(), augmentation_generator(plan.seed, plan.epoch(batch.step), sample, repeat))
            for sample, repeat in zip(samples.tolist(), repeats.tolist(), strict=True)
        ]
        assert np.array_equal(batch.images, np.stack(expected))


def test_images_in_memory_come_as_planned(in_memory: DecodedImages, resources: StreamResources) -> None:
    plan = SamplePlan(len(in_memory), batch_size=5, epochs=2, seed=3)
    whole = in_memory.gather(np.arange(len(in_memory)))
    check(batches(in_memory, plan, resources), plan, in_memory.labels, lambda sample: whole[sample])


def test_rare_classes_come_more_often_and_never_alike(in_memory: DecodedImages, resources: StreamResources) -> None:
    labels = (0,) * 20 + (1,) * 4
    plan = SamplePlan(len(in_memory), batch_size=8, epochs=1, seed=0, balanced=labels)
    whole = in_memory.gather(np.arange(len(in_memory)))
    streamed = batches(in_memory, plan, resources)
    check(streamed, plan, in_memory.labels, lambda sample: whole[sample])
    assert len({image.tobytes() for batch in streamed for image in batch.images}) == len(in_memory)


def test_images_in_shards_come_as_planned(
    on_disk: shard_source.ShardSource, small_shards: PreparedDataset, resources: StreamResources
) -> None:
    sizes = tuple(len(rows) for rows in on_disk.rows)
    assert len(sizes) == 7  # one shard of the eight has no image of this split
    assert small_shards.card.parts == 8
    plan = WindowedSamplePlan(len(on_disk.labels), batch_size=4, epochs=2, seed=3, shards=sizes, window=2)
    images: list[NDArray[np.uint8]] = []
    for file, rows in zip(on_disk.files, on_disk.rows, strict=True):
        import pyarrow.parquet as pq

        table = pq.read_table(file.path).to_pylist()
        assert all(table[row]["split"] == "train" for row in rows)
        images += [decode_stored("", table[row]["image"]["bytes"], INPUT, MAX_PIXELS) for row in rows]
    check(batches(on_disk, plan, resources), plan, on_disk.labels, lambda sample: images[sample])


@pytest.mark.parametrize("kind", ["in_memory", "on_disk"])
def test_neither_tasks_nor_workers_nor_a_restart_change_what_comes(
    kind: str,
    in_memory: DecodedImages,
    on_disk: shard_source.ShardSource,
    resources: StreamResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_stream, "TASK_IMAGES", 12)  # two steps
    source: ImageSource = in_memory if kind == "in_memory" else on_disk
    sizes = tuple(len(rows) for rows in on_disk.rows)
    plan = (
        SamplePlan(24, batch_size=5, epochs=3, seed=1)
        if kind == "in_memory"
        else WindowedSamplePlan(24, batch_size=5, epochs=3, seed=1, shards=sizes, window=3)
    )
    whole = batches(source, plan, resources)
    for cpus, ahead_bytes in ((2, 2**26), (7, 2**26), (2, 2**16), (1, 1.0)):
        other_resources = replace(resources, cpus=cpus, ahead_bytes=ahead_bytes)
        for one, other in zip(whole, batches(source, plan, other_resources), strict=True):
            assert np.array_equal(one.images, other.images)
    for start in (1, 6, plan.steps - 1):
        resumed = batches(source, plan, resources, Worker(rank=1, world_size=2), start)
        assert [batch.step for batch in resumed] == list(range(start, plan.steps))
        for half, full in zip(resumed, whole[start:], strict=True):
            assert np.array_equal(half.images, full.images[-len(half.images) :])
            assert half.labels.tolist() == full.labels[-len(half.labels) :].tolist()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_validation_gets_the_same_batches_from_shards_as_from_memory(
    workers: int,
    small_shards: PreparedDataset,
    on_disk: shard_source.ShardSource,
    resources: StreamResources,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_stream, "TASK_IMAGES", 12)  # two steps
    decoded = image_source.decode_split(small_shards, "train", INPUT, as_stored=True)
    assert decoded.labels.tolist() == on_disk.labels.tolist()
    held, read = (
        [batch for rank in range(workers) for batch in validation_batches(stored, Worker(rank, workers), resources)]
        for stored in (ray.put(plan_validation(decoded, 5)), ray.put(plan_validation(on_disk, 5)))
    )
    assert [batch.step for batch in held] == [batch.step for batch in read] == list(range(5))  # 24 in five batches
    for one, other in zip(held, read, strict=True):
        assert np.array_equal(one.images, other.images)
        assert one.labels.tolist() == other.labels.tolist()
    assert np.array_equal(np.concatenate([batch.images for batch in read]), decoded.gather(np.arange(24)))


def test_images_of_a_batch_are_views_of_their_block() -> None:
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (number, 4, 4, 3), np.uint8) for number in (3, 2, 5)]
    labels = [[0] * 3, [1] * 2, [2] * 5]
    columns = {"step": [7, 8, 9], "images": [each.tobytes() for each in pixels], "labels": labels}
    whole = pa.table(columns, schema=batch_stream._BLOCK)
    (_, _, values) = whole["images"].chunk(0).buffers()
    memory = np.frombuffer(values, np.uint8)
    for block, first in ((whole, 0), (whole.slice(1), 1), (pa.concat_tables([whole.slice(0, 1), whole.slice(1)]), 0)):
        found = list(batch_stream._block_batches(block, size=4))
        assert [batch.step for batch in found] == [7, 8, 9][first:]
        assert [batch.labels.tolist() for batch in found] == labels[first:]
        for batch, expected in zip(found, pixels[first:], strict=True):
            assert np.array_equal(batch.images, expected)
            assert np.shares_memory(batch.images, memory)


@dataclass(frozen=True)
class Noted(DecodedImages):
    """Writes down which steps were read."""

    notes: Path

    def read(self, plan: SamplePlan, steps: range, worker: Worker) -> Iterator[NDArray[np.uint8]]:
        for step, images in zip(steps, super().read(plan, steps, worker), strict=True):
            (self.notes / str(step)).touch()
            yield images


def wait_for(steps: int, notes: Path) -> None:
    deadline = time.monotonic() + 60
    while len(list(notes.iterdir())) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_first_batches_are_made_before_one_is_asked_for(
    in_memory: DecodedImages, resources: StreamResources, tmp_path: Path
) -> None:
    source = Noted(in_memory.labels, in_memory.size, in_memory.blocks, in_memory.positions, tmp_path)
    data = ray.put(TrainingData(source, SamplePlan(24, batch_size=12, epochs=1, seed=1)))
    coming = stream_batches(data, Augment(), SINGLE_WORKER, start=0, resources=resources)
    wait_for(2, tmp_path)
    assert [batch.step for batch in coming] == [0, 1]


def test_the_tasks_are_no_further_ahead_than_is_asked_for(
    in_memory: DecodedImages, resources: StreamResources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_stream, "TASK_IMAGES", 12)  # a step, of which there are 20
    source = Noted(in_memory.labels, in_memory.size, in_memory.blocks, in_memory.positions, tmp_path)
    plan = SamplePlan(24, batch_size=12, epochs=10, seed=1)
    little = replace(resources, ahead_bytes=6 * 12 * INPUT.size**2 * 3)
    coming = stream_batches(ray.put(TrainingData(source, plan)), Augment(), SINGLE_WORKER, start=0, resources=little)
    next(coming)
    wait_for(4, tmp_path)
    time.sleep(2)
    assert sorted(int(note.name) for note in tmp_path.iterdir()) == list(range(4))
    assert [batch.step for batch in coming] == list(range(1, 20))


def test_a_limit_takes_so_many(dataset: PreparedDataset) -> None:
    assert len(image_source.decode_split(dataset, "train", INPUT, limit=7)) == 7


def test_what_fits_into_memory() -> None:
    from cluster.nodes import NodeSize, Resources

    store = Resources((NodeSize(2, store_bytes=2 * 100 * 32 * 32 * 3), NodeSize(8, store_bytes=1e12)))
    assert shard_source.fits_in_memory(100, INPUT, store)
    assert not shard_source.fits_in_memory(101, INPUT, store)
