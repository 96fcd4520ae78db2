"""Which sample comes when: the order of a whole training run, known before its first step.

The plan is a pure function of its fields. Whoever asks, in whatever process and in whatever order, gets the same
answer; so data tasks can work ahead in parallel, a run can be repeated, and a resumed run goes on at the next step.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def worker_slice(total: int, parts: int, part: int) -> slice:
    """Return the ``part``-th of ``parts`` adjoining slices of ``range(total)``, whose lengths differ by at most one."""
    return slice(part * total // parts, (part + 1) * total // parts)


@dataclass(frozen=True)
class SamplePlan:
    """The batches of a run: every sample once an epoch, in a new random order each time.

    With ``balanced``, the labels of all samples, an epoch is as long but each class comes equally often in it (give or
    take one), and within its class each sample as often as any other (give or take one): those of rare classes come
    several times, and of frequent ones a part does, a new one each epoch.

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

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
        """Return the sample numbers, each in ``[0, samples)``, that one worker sees in one step of the run.

        The shares of all ranks, one after the other, are the batch of a single worker.
        """
        order, _ = self._order(self.epoch(step))
        return order[self._share(step, rank, world_size)]

    def repeats(self, step: int, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
        """Return how often each sample of ``batch`` came before in its epoch: always 0, unless the plan is balanced."""
        _, repeats = self._order(self.epoch(step))
        return repeats[self._share(step, rank, world_size)]

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _order(self.seed, epoch, self.balanced or self.samples)

    def _share(self, step: int, rank: int, world_size: int) -> slice:
        """Return the positions in the epoch that one worker sees in one step."""
        whole = worker_slice(self.samples, self.steps_per_epoch, step % self.steps_per_epoch)
        part = worker_slice(whole.stop - whole.start, world_size, rank)
        return slice(whole.start + part.start, whole.start + part.stop)


@lru_cache(maxsize=2)  # data tasks of one epoch border ask for two epochs in turn
def _order(seed: int, epoch: int, drawn: int | tuple[int, ...]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
