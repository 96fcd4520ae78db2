"""Deterministic sampling plans: the order of samples over a whole training run, known before its first step.

A plan is a pure function of its fields. Any process gets the same answer in any order of questions, so data tasks can
prefetch in parallel, a run can be repeated, and a resumed run continues with the very next step.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Worker:
    """Identity of one of the processes that train together (data parallelism)."""

    rank: int
    """in ``[0, world_size)``"""
    world_size: int


SINGLE_WORKER = Worker(rank=0, world_size=1)


def worker_slice(total: int, parts: int, part: int) -> slice:
    """Return the ``part``-th of ``parts`` adjoining slices of ``range(total)``, whose lengths differ by at most one."""
    return slice(part * total // parts, (part + 1) * total // parts)


@dataclass(frozen=True)
class SamplePlan:
    """Batches of a run by random sampling without replacement: every sample once an epoch, reshuffled each time.

    With ``balanced``, the labels of all samples, classes are drawn equally often (oversampling): an epoch is as long,
    but each class comes equally often in it (give or take one), and within its class each sample as often as any other
    (give or take one). Samples of rare classes come several times; of frequent ones a part, a new one each epoch.

    An epoch of 100 samples in batches of at most 32 is four batches of 25, not three of 32 and one of 4: no sample is
    dropped, and no step is taken on a handful of images, whose batch statistics would be poor.
    """

    samples: int
    batch_size: int
    epochs: int
    seed: int
    balanced: tuple[int, ...] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Steps in each epoch."""
        return -(-self.samples // self.batch_size)

    @property
    def steps(self) -> int:
        """Steps in the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def smallest_batch(self) -> int:
        """Size of the smallest batch over all workers."""
        return self.samples // self.steps_per_epoch

    def epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to; both count from 0."""
        return step // self.steps_per_epoch

    def batch(self, step: int, worker: Worker = SINGLE_WORKER) -> NDArray[np.int64]:
        """Return one worker's share of a step's batch: sample numbers (n,), each in ``[0, samples)``.

        The shares of all ranks, one after the other, are the batch of a single worker.
        """
        order, _ = self._order(self.epoch(step))
        return order[self._share(step, worker)]

    def repeats(self, step: int, worker: Worker = SINGLE_WORKER) -> NDArray[np.int64]:
        """Return how often each sample of ``batch`` came before in its epoch: always 0, unless the plan is balanced."""
        _, repeats = self._order(self.epoch(step))
        return repeats[self._share(step, worker)]

    def task_steps(self, start: int, images: int) -> list[range]:
        """Return the steps from ``start`` on, divided among data tasks of about ``images`` images, at least a step."""
        each = max(1, images // self.batch_size)
        return [range(first, min(first + each, self.steps)) for first in range(start, self.steps, each)]

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _shuffled_order(self.seed, epoch, self.balanced or self.samples)

    def _share(self, step: int, worker: Worker) -> slice:
        """Return the positions in the epoch that one worker sees in one step."""
        whole = worker_slice(self.samples, self.steps_per_epoch, step % self.steps_per_epoch)
        part = worker_slice(whole.stop - whole.start, worker.world_size, worker.rank)
        return slice(whole.start + part.start, whole.start + part.stop)


@dataclass(frozen=True)
class WindowedSamplePlan(SamplePlan):
    """Batches of a run over shards, by a shuffle buffer: for datasets too large for memory.

    All shards come once an epoch, in a new random order. The samples of so many consecutive steps, a window, are
    divided into parts as they follow each other, one for each worker's share of these batches, and those of a part are
    shuffled together: so a worker reads its own part of a window only. A sample moves within its part, but parts
    consist of other shards in each epoch. As in `SamplePlan`, every sample comes once an epoch. Samples are numbered as
    they lie in the shards, shard after shard. The order depends on ``parts``, and not on how many workers there are.
    """

    shards: tuple[int, ...] = ()
    """samples in each shard"""
    window: int = 1
    """steps of a window"""
    parts: int = 1
    """parts of a window: the workers for which the plan is made; others get the same batches, but read more parts"""

    def windows(self, start: int) -> list[range]:
        """Return the steps from ``start`` on, window by window; a window ends with its epoch."""
        found = []
        for epoch in range(self.epoch(start), self.epochs):
            first = epoch * self.steps_per_epoch
            for begin in range(first, first + self.steps_per_epoch, self.window):
                end = min(begin + self.window, first + self.steps_per_epoch)
                if end > start:
                    found.append(range(max(begin, start), end))
        return found

    def task_steps(self, start: int, images: int) -> list[range]:  # noqa: ARG002 - a window is read by one task
        """Return the steps from ``start`` on, a window for each data task."""
        return self.windows(start)

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _windowed_order(self, epoch)


@dataclass(frozen=True)
class SequentialPlan(SamplePlan):
    """Batches of a validation: every sample once, as they are numbered; an epoch is one pass over them."""

    epochs: int = 1
    seed: int = 0

    def worker_steps(self, worker: Worker) -> range:
        """Return the steps whose whole batches one worker takes: neighbours, so that it reads few row groups."""
        return range(self.steps)[worker_slice(self.steps, worker.world_size, worker.rank)]

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # noqa: ARG002 - all are alike
        return np.arange(self.samples), np.broadcast_to(np.int64(0), self.samples)


@lru_cache(maxsize=2)  # data tasks around the end of an epoch ask for two epochs in turn
def _shuffled_order(seed: int, epoch: int, drawn: int | tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the samples of an epoch in order, and how often each came before in it.

    ``drawn`` is the number of samples, or the labels of a balanced plan.
    """
    random = np.random.default_rng((seed, epoch))
    if isinstance(drawn, int):
        return random.permutation(drawn), np.zeros(drawn, np.int64)
    labels = np.array(drawn)
    classes = random.permutation(np.unique(labels))  # at random, since the sizes of the parts differ by one
    parts = []
    for number, label in enumerate(classes):
        members, part = np.flatnonzero(labels == label), worker_slice(len(labels), len(classes), number)
        rounds = -(-(part.stop - part.start) // len(members))
        again = np.concatenate([random.permutation(members) for _ in range(rounds)])
        parts.append(again[: part.stop - part.start])
    order = random.permutation(np.concatenate(parts))
    alike = np.argsort(order, kind="stable")
    first = np.searchsorted(order[alike], order)
    return order, np.argsort(alike) - first


@lru_cache(maxsize=2)
def _windowed_order(plan: WindowedSamplePlan, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the samples of an epoch in order, shuffled within parts of windows, and zeros, since none is repeated."""
    random = np.random.default_rng((plan.seed, epoch))
    starts = np.concatenate([[0], np.cumsum(plan.shards)])
    order = np.concatenate(
        [np.arange(starts[shard], starts[shard + 1]) for shard in random.permutation(len(plan.shards))]
    )
    steps = np.arange(plan.steps_per_epoch + 1) * plan.samples // plan.steps_per_epoch
    for begin in range(0, plan.steps_per_epoch, plan.window):
        edges = steps[begin : begin + plan.window + 1]
        window, part = order[edges[0] : edges[-1]], _part_of_positions(np.diff(edges), plan.parts)
        following, taken = window.copy(), 0
        for places in np.split(np.argsort(part, kind="stable"), np.cumsum(np.bincount(part))[:-1]):
            own = following[taken : taken + len(places)]
            random.shuffle(own)
            window[places], taken = own, taken + len(places)
    return order, np.broadcast_to(np.int64(0), plan.samples)


def _part_of_positions(batches: NDArray[np.int64], parts: int) -> NDArray[np.int64]:
    """Return for each position in consecutive batches of these sizes which of the equal parts of its batch it is in.

    The parts are those of `worker_slice`.
    """
    sizes = np.repeat(batches, batches)
    offsets = np.arange(len(sizes)) - np.repeat(np.cumsum(batches) - batches, batches)
    return ((offsets + 1) * parts - 1) // sizes
