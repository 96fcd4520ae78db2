"""Which sample comes when: the order of a whole training run, known before its first step.

The plan is a pure function of its fields. Whoever asks, in whatever process and in whatever order, gets the same
answer; so data tasks can work ahead in parallel, a run can be repeated, and a resumed run goes on at the next step.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=2)  # data tasks of one epoch border ask for two epochs in turn
def _order(seed: int, epoch: int, samples: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(samples)


def spread(total: int, parts: int, part: int) -> slice:
    """Return the ``part``-th of ``parts`` adjoining slices of ``range(total)``, whose lengths differ by at most one."""
    return slice(part * total // parts, (part + 1) * total // parts)


@dataclass(frozen=True)
class Plan:
    """The batches of a run: every sample once an epoch, in a new random order each time.

    An epoch of 100 samples in batches of at most 32 is four batches of 25, not three of 32 and one of 4: no sample is
    dropped, and no step is taken on a handful of images, whose batch statistics would be poor.
    """

    samples: int
    batch_size: int
    epochs: int
    seed: int

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
        order = _order(self.seed, self.epoch(step), self.samples)
        whole = order[spread(self.samples, self.steps_per_epoch, step % self.steps_per_epoch)]
        return whole[spread(len(whole), world_size, rank)]
