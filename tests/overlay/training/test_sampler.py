import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from overlay.training.sampler import SamplePlan

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
    shares = [plan.batch(step, rank, world_size) for rank in range(world_size)]
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
            samples = plan.batch(step, rank, world_size).tolist()
            for sample, repeat in zip(samples, plan.repeats(step, rank, world_size).tolist(), strict=True):
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
