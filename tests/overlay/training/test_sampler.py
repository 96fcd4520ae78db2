import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.training.sampler import SamplePlan, SequentialPlan, WindowedSamplePlan, Worker

PLANS = st.builds(
    SamplePlan,
    samples=st.integers(1, 300),
    batch_size=st.integers(1, 64),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)


def epoch_order(plan: SamplePlan, epoch: int) -> list[int]:
    first = epoch * plan.steps_per_epoch
    return [int(sample) for step in range(first, first + plan.steps_per_epoch) for sample in plan.batch(step)]


@given(PLANS)
def test_an_epoch_holds_each_sample_once(plan: SamplePlan) -> None:
    for epoch in range(plan.epochs):
        assert sorted(epoch_order(plan, epoch)) == list(range(plan.samples))


@given(PLANS)
def test_batches_are_of_almost_one_size_and_never_too_large(plan: SamplePlan) -> None:
    sizes = {len(plan.batch(step)) for step in range(plan.steps)}
    assert max(sizes) <= plan.batch_size
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) == plan.smallest_batch


@given(PLANS, st.sampled_from([1, 2, 3, 7]), st.data())
def test_the_shares_of_the_ranks_make_up_the_batch(plan: SamplePlan, world_size: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, plan.steps - 1))
    shares = [plan.batch(step, Worker(rank, world_size)) for rank in range(world_size)]
    assert np.concatenate(shares).tolist() == plan.batch(step).tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(PLANS, st.data())
def test_a_resumed_run_sees_what_the_whole_one_would_have_seen(plan: SamplePlan, data: st.DataObject) -> None:
    whole = [plan.batch(step).tolist() for step in range(plan.steps)]
    start = data.draw(st.integers(0, plan.steps))
    again = SamplePlan(plan.samples, plan.batch_size, plan.epochs, plan.seed)
    assert [again.batch(step).tolist() for step in range(start, again.steps)] == whole[start:]


def test_epochs_and_seeds_differ() -> None:
    plan, other = SamplePlan(100, 32, epochs=3, seed=0), SamplePlan(100, 32, epochs=3, seed=1)
    orders = [epoch_order(each, epoch) for each in (plan, other) for epoch in range(3)]
    assert len({tuple(order) for order in orders}) == 6


def test_a_hundred_samples_are_four_batches_of_25() -> None:
    plan = SamplePlan(100, 32, epochs=3, seed=0)
    assert (plan.steps_per_epoch, plan.steps, plan.smallest_batch) == (4, 12, 25)
    assert [plan.epoch(step) for step in (0, 3, 4, 11)] == [0, 0, 1, 2]
    assert {len(plan.batch(step)) for step in range(12)} == {25}


@given(PLANS, st.integers(1, 500), st.data())
def test_tasks_cover_the_steps_that_are_left(plan: SamplePlan, images: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.steps))
    tasks = plan.task_steps(start, images)
    assert [step for task in tasks for step in task] == list(range(start, plan.steps))
    assert all(len(task) == max(1, images // plan.batch_size) for task in tasks[:-1])


LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=120).map(tuple)


@given(LABELS, st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_a_balanced_epoch_holds_each_class_and_each_sample_of_a_class_alike(
    labels: tuple[int, ...], batch_size: int, seed: int
) -> None:
    plan = SamplePlan(len(labels), batch_size, epochs=2, seed=seed, balanced=labels)
    for epoch in range(2):
        order = epoch_order(plan, epoch)
        assert len(order) == plan.samples
        times = np.bincount(order, minlength=plan.samples)
        classes = np.array(labels)
        of_class = [times[classes == label] for label in np.unique(classes)]
        assert max(each.sum() for each in of_class) - min(each.sum() for each in of_class) <= 1
        assert all(each.max() - each.min() <= 1 for each in of_class)


@given(LABELS, st.integers(1, 64), st.sampled_from([1, 2, 3]))
def test_repeats_are_counted_in_the_order_of_the_epoch(
    labels: tuple[int, ...], batch_size: int, world_size: int
) -> None:
    plan = SamplePlan(len(labels), batch_size, epochs=1, seed=0, balanced=labels)
    seen: list[int] = []
    for step in range(plan.steps):
        for rank in range(world_size):
            worker = Worker(rank, world_size)
            samples = plan.batch(step, worker).tolist()
            for sample, repeat in zip(samples, plan.repeats(step, worker).tolist(), strict=True):
                assert repeat == seen.count(sample)
                seen.append(sample)


@given(PLANS)
def test_no_sample_repeats_in_a_plan_that_is_not_balanced(plan: SamplePlan) -> None:
    assert not any(plan.repeats(step).any() for step in range(plan.steps))


def test_balanced_epochs_differ_and_labels_that_are_alike_make_an_ordinary_epoch() -> None:
    plan = SamplePlan(90, 32, epochs=2, seed=0, balanced=(0,) * 60 + (1,) * 30)
    first, second = epoch_order(plan, 0), epoch_order(plan, 1)
    assert {sample for sample in first if sample < 60} != {sample for sample in second if sample < 60}
    assert np.bincount(first, minlength=90)[60:].tolist().count(2) == 15
    alike = SamplePlan(90, 32, epochs=1, seed=0, balanced=(7,) * 90)
    assert sorted(epoch_order(alike, 0)) == list(range(90))


@st.composite
def windowed_plans(draw: st.DrawFn) -> WindowedSamplePlan:
    shards = tuple(draw(st.lists(st.integers(1, 40), min_size=1, max_size=8)))
    return WindowedSamplePlan(
        samples=sum(shards),
        batch_size=draw(st.integers(1, 30)),
        epochs=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 5)),
        shards=shards,
        window=draw(st.integers(1, 9)),
        parts=draw(st.integers(1, 5)),
    )


@given(windowed_plans())
def test_a_windowed_epoch_holds_each_sample_once(plan: WindowedSamplePlan) -> None:
    for epoch in range(plan.epochs):
        assert sorted(epoch_order(plan, epoch)) == list(range(plan.samples))


@given(windowed_plans(), st.integers(1, 4))
def test_the_shares_of_the_ranks_make_up_a_windowed_batch(plan: WindowedSamplePlan, world_size: int) -> None:
    for step in range(plan.steps):
        shares = [plan.batch(step, Worker(rank, world_size)) for rank in range(world_size)]
        assert np.concatenate(shares).tolist() == plan.batch(step).tolist()


@given(windowed_plans(), st.data())
def test_the_windows_cover_the_steps_that_are_left(plan: WindowedSamplePlan, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.steps))
    windows = plan.windows(start)
    assert plan.task_steps(start, images=1) == windows
    assert [step for window in windows for step in window] == list(range(start, plan.steps))
    for window in windows:
        assert 1 <= len(window) <= plan.window
        assert plan.epoch(window[0]) == plan.epoch(window[-1])


@given(windowed_plans())
def test_a_window_holds_neighbouring_shards_only(plan: WindowedSamplePlan) -> None:
    """Its samples are a run of the shards' sequence: all of each shard but the first and the last."""
    shard_of = np.repeat(np.arange(len(plan.shards)), plan.shards)
    for window in plan.windows(0):
        samples = np.concatenate([plan.batch(step) for step in window])
        held, counts = np.unique(shard_of[samples], return_counts=True)
        partly = [shard for shard, count in zip(held, counts, strict=True) if count < plan.shards[shard]]
        assert len(partly) <= 2


@given(windowed_plans())
def test_each_worker_reads_its_own_run_of_a_window_only(plan: WindowedSamplePlan) -> None:
    """The shares of the workers for whom the plan is made follow each other in the epoch's sequence of shards."""
    starts = np.cumsum([0, *plan.shards])
    for epoch in range(plan.epochs):
        sequence = np.random.default_rng((plan.seed, epoch)).permutation(len(plan.shards))
        following = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in sequence]).tolist()
        for window in plan.windows(epoch * plan.steps_per_epoch):
            for rank in range(plan.parts if plan.epoch(window[0]) == epoch else 0):
                share = np.concatenate([plan.batch(step, Worker(rank, plan.parts)) for step in window])
                assert sorted(share.tolist()) == sorted(following[: len(share)])
                del following[: len(share)]


def test_the_order_of_a_windowed_epoch() -> None:
    """Known answers: of one worker, NumPy's shuffle of each window; of two, of each half of it."""
    one = WindowedSamplePlan(samples=16, batch_size=4, epochs=1, seed=0, shards=(4, 4, 4, 4), window=2)
    random = np.random.default_rng((0, 0))
    order = np.concatenate([np.arange(4) + 4 * shard for shard in random.permutation(4)])
    for window in (order[:8], order[8:]):
        random.shuffle(window)
    assert epoch_order(one, 0) == order.tolist()

    two = WindowedSamplePlan(samples=16, batch_size=4, epochs=1, seed=0, shards=(4, 4, 4, 4), window=2, parts=2)
    random = np.random.default_rng((0, 0))
    parts = [np.arange(4) + 4 * shard for shard in random.permutation(4)]
    for part in parts:
        random.shuffle(part)
    first, second, third, fourth = (part.tolist() for part in parts)
    assert [two.batch(step).tolist() for step in range(4)] == [
        first[:2] + second[:2],
        first[2:] + second[2:],
        third[:2] + fourth[:2],
        third[2:] + fourth[2:],
    ]


def test_windowed_epochs_and_seeds_differ() -> None:
    plan = WindowedSamplePlan(samples=90, batch_size=10, epochs=2, seed=0, shards=(30, 30, 30), window=3)
    other = WindowedSamplePlan(samples=90, batch_size=10, epochs=2, seed=1, shards=(30, 30, 30), window=3)
    assert (
        len({tuple(epoch_order(plan, 0)), tuple(epoch_order(plan, 1)), tuple(epoch_order(other, 0)), tuple(range(90))})
        == 4
    )


@pytest.mark.parametrize("window", [1, 4, 16, 64])
def test_how_far_a_window_mixes(window: int) -> None:
    """Neighbours in a shard come on average a third of a window apart, as two random places in it are."""
    plan = WindowedSamplePlan(samples=4096, batch_size=64, epochs=1, seed=0, shards=(256,) * 16, window=window)
    position = np.argsort(epoch_order(plan, 0))
    assert np.abs(np.diff(position)).mean() == pytest.approx(window * 64 / 3, rel=0.3)


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 7))
def test_a_validation_sees_each_sample_once_in_order_over_all_workers(samples: int, batch: int, workers: int) -> None:
    plan = SequentialPlan(samples, batch)
    steps = [plan.worker_steps(Worker(rank, workers)) for rank in range(workers)]
    assert max(map(len, steps)) - min(map(len, steps)) <= 1
    seen = [int(sample) for own in steps for step in own for sample in plan.batch(step)]
    assert seen == list(range(samples))
