import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.training.windowed_sampler import WindowedSamplePlan


@st.composite
def plans(draw: st.DrawFn) -> WindowedSamplePlan:
    shards = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=8)))
    return WindowedSamplePlan(
        samples=sum(shards),
        batch_size=draw(st.integers(1, 30)),
        epochs=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 5)),
        shards=shards,
        window=draw(st.integers(1, 9)),
    )


def order(plan: WindowedSamplePlan, epoch: int) -> list[int]:
    steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
    return [int(sample) for step in steps for sample in plan.batch(step)]


@given(plans())
def test_each_sample_comes_once_an_epoch(plan: WindowedSamplePlan) -> None:
    for epoch in range(plan.epochs):
        assert sorted(order(plan, epoch)) == list(range(plan.samples))


@given(plans(), st.integers(1, 4))
def test_the_workers_shares_add_up_to_the_batch(plan: WindowedSamplePlan, world_size: int) -> None:
    for step in range(plan.steps):
        shares = [plan.batch(step, rank, world_size) for rank in range(world_size)]
        assert np.concatenate(shares).tolist() == plan.batch(step).tolist()


@given(plans(), st.data())
def test_the_windows_cover_the_steps_that_are_left(plan: WindowedSamplePlan, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.steps))
    windows = plan.windows(start)
    assert [step for window in windows for step in window] == list(range(start, plan.steps))
    for window in windows:
        assert 1 <= len(window) <= plan.window
        assert plan.epoch(window[0]) == plan.epoch(window[-1])


@given(plans())
def test_a_window_holds_neighbouring_shards_only(plan: WindowedSamplePlan) -> None:
    """Its samples are a run of the shards' sequence: all of each shard but the first and the last."""
    shard_of = np.repeat(np.arange(len(plan.shards)), plan.shards)
    for window in plan.windows(0):
        samples = np.concatenate([plan.batch(step) for step in window])
        held, counts = np.unique(shard_of[samples], return_counts=True)
        partly = [shard for shard, count in zip(held, counts, strict=True) if count < plan.shards[shard]]
        assert len(partly) <= 2


def test_epochs_and_seeds_differ() -> None:
    plan = WindowedSamplePlan(samples=90, batch_size=10, epochs=2, seed=0, shards=(30, 30, 30), window=3)
    other = WindowedSamplePlan(samples=90, batch_size=10, epochs=2, seed=1, shards=(30, 30, 30), window=3)
    assert len({tuple(order(plan, 0)), tuple(order(plan, 1)), tuple(order(other, 0)), tuple(range(90))}) == 4


@pytest.mark.parametrize("window", [1, 4, 16, 64])
def test_how_far_a_window_mixes(window: int) -> None:
    """Neighbours in a shard come on average a third of a window apart, as two random places in it are."""
    plan = WindowedSamplePlan(samples=4096, batch_size=64, epochs=1, seed=0, shards=(256,) * 16, window=window)
    position = np.argsort(order(plan, 0))
    assert np.abs(np.diff(position)).mean() == pytest.approx(window * 64 / 3, rel=0.3)
