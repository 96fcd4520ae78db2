"""The order of samples that are read from shards, where a dataset is too large to lie in memory.

All shards come once an epoch, in a new random order; of what they hold, one after the other, so many steps' samples are
shuffled together: a window. A sample so moves within its window only, but windows are made of other shards each time.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from overlay.training.sampler import SamplePlan, worker_slice


@dataclass(frozen=True)
class WindowedSamplePlan(SamplePlan):
    """The batches of a run over shards: as `Plan`, every sample once an epoch.

    Samples are numbered as they lie in the shards, one shard after the other.
    """

    shards: tuple[int, ...] = ()
    """samples in each shard"""
    window: int = 1
    """steps whose samples are shuffled together"""

    def windows(self, start: int) -> list[range]:
        """Return the steps from ``start`` on, window by window."""
        found = []
        for epoch in range(self.epoch(start), self.epochs):
            first = epoch * self.steps_per_epoch
            for begin in range(first, first + self.steps_per_epoch, self.window):
                end = min(begin + self.window, first + self.steps_per_epoch)
                if end > start:
                    found.append(range(max(begin, start), end))
        return found

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return _windowed(self, epoch)


@lru_cache(maxsize=2)
def _windowed(plan: WindowedSamplePlan, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    random = np.random.default_rng((plan.seed, epoch))
    starts = np.concatenate([[0], np.cumsum(plan.shards)])
    order = np.concatenate(
        [np.arange(starts[shard], starts[shard + 1]) for shard in random.permutation(len(plan.shards))]
    )
    for begin in range(0, plan.steps_per_epoch, plan.window):
        last = min(begin + plan.window, plan.steps_per_epoch) - 1
        first_sample = worker_slice(plan.samples, plan.steps_per_epoch, begin).start
        end_sample = worker_slice(plan.samples, plan.steps_per_epoch, last).stop
        random.shuffle(order[first_sample:end_sample])
    return order, np.zeros(plan.samples, np.int64)
