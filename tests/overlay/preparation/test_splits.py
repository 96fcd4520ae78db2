from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from overlay.config import SPLITS, Split
from overlay.dataset.card import SideGroups
from overlay.dataset.folds import side_of_fold
from overlay.errors import RequestError
from overlay.preparation.splits import (
    ClassSizes,
    Texts,
    assign_folds,
    assign_sides,
    group_sizes,
    share_deviation,
)
from overlay.preparation.user_columns import GroupRule, SplitRule, compile_pattern, match_group, user_groups


def assign(labels: Texts, groups: Texts, split: Split) -> list[str]:
    return [SPLITS[side] for side in assign_sides(labels, groups, split)]


@st.composite
def splits(draw: st.DrawFn) -> Split:
    val, test = draw(st.integers(5, 40)), draw(st.integers(5, 40))
    return Split(train=(100 - val - test) / 100, val=val / 100, test=test / 100, seed=draw(st.integers(0, 99)))


def counted(labels: list[str], sides: list[str]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label, side in zip(labels, sides, strict=True):
        counts[label][side] += 1
    return counts


@given(sizes=st.lists(st.integers(3, 200), min_size=2, max_size=4), split=splits())
def test_without_groups_each_class_keeps_its_shares(sizes: list[int], split: Split) -> None:
    labels = [f"class {i}" for i, size in enumerate(sizes) for _ in range(size)]
    sides = assign(labels, [f"image {i}" for i in range(len(labels))], split)
    for label, counts in counted(labels, sides).items():
        size = labels.count(label)
        shares = {name: size * getattr(split, name) for name in SPLITS}
        assert all(counts[name] >= 1 for name in SPLITS)
        # Where one image in each split is more than the small shares come to, the largest pays for it.
        least = sum(max(1, int(share + 1e-9)) for share in shares.values())
        allowed = 1 if least <= size else 2
        assert all(abs(counts[name] - share) < allowed + 1e-9 for name, share in shares.items())


@given(
    groups=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 12)), min_size=1, max_size=40),
    split=splits(),
)
def test_pure_groups_stay_on_one_side_and_every_class_is_everywhere(
    groups: list[tuple[str, int]], split: Split
) -> None:
    groups = groups + [("a", 1)] * 3 + [("b", 2)] * 3
    labels = [label for label, size in groups for _ in range(size)]
    names = [f"group {i}" for i, (_, size) in enumerate(groups) for _ in range(size)]
    sides = assign(labels, names, split)
    assert len(set(zip(names, sides, strict=True))) == len(groups)
    assert all(set(counts) == set(SPLITS) for counts in counted(labels, sides).values())


@given(members=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=120), split=splits())
def test_mixed_groups_stay_on_one_side(members: list[tuple[str, int]], split: Split) -> None:
    members = members + [(label, 100 * i + ord(label)) for label in "abc" for i in range(1, 5)]
    labels, names = [label for label, _ in members], [f"group {number}" for _, number in members]
    sides = assign(labels, names, split)
    assert len(set(zip(names, sides, strict=True))) == len(set(names))
    assert all(set(counts) == set(SPLITS) for counts in counted(labels, sides).values())


@given(order=st.permutations(range(30)))
def test_the_order_of_listing_does_not_matter(order: list[int]) -> None:
    labels = ["a" if i % 3 else "b" for i in range(30)]
    groups = [f"group {i // 2}" for i in range(30)]
    sides = assign(labels, groups, Split())
    shuffled = assign([labels[i] for i in order], [groups[i] for i in order], Split())
    assert shuffled == [sides[i] for i in order]


def test_the_seed_decides() -> None:
    labels, groups = ["a", "b"] * 50, [f"{i}" for i in range(100)]
    assert assign(labels, groups, Split(seed=1)) == assign(labels, groups, Split(seed=1))
    assert assign(labels, groups, Split(seed=1)) != assign(labels, groups, Split(seed=2))


def test_counts_of_the_whole_busi() -> None:
    labels = ["benign"] * 437 + ["malignant"] * 210 + ["normal"] * 133
    counts = counted(labels, assign(labels, [str(i) for i in range(780)], Split()))
    assert counts == {
        "benign": {"train": 306, "val": 66, "test": 65},
        "malignant": {"train": 147, "val": 32, "test": 31},
        "normal": {"train": 93, "val": 20, "test": 20},
    }


def test_a_large_group_is_made_up_for() -> None:
    labels = ["a"] * 100 + ["b"] * 100
    groups = ["patient"] * 20 + [str(i) for i in range(180)]
    counts = counted(labels, assign(labels, groups, Split()))
    assert counts["a"] == {"train": 70, "val": 15, "test": 15}


def test_three_large_groups_reach_all_splits() -> None:
    labels = ["a"] * 30 + ["b"] * 30
    groups = [f"{i // 10}" for i in range(60)]
    assert set(assign(labels, groups, Split())[:30]) == set(SPLITS)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["1", "2"], r"class b has 2 images, too few .* at least 3 images"),
        (["1", "1"], r"class b has 2 images in 1 groups, too few .* at least 3 groups"),
    ],
)
def test_a_class_too_small(groups: list[str], message: str) -> None:
    labels, names = ["a", "a", "a", "b", "b"], ["x", "y", "z", *groups]
    sizes = ClassSizes()
    for label, group in zip(labels, names, strict=True):
        sizes.add(label, group)
    with pytest.raises(RequestError, match=message):
        sizes.check()
    with pytest.raises(RequestError, match=message):
        assign(labels, names, Split())


def test_groups_that_tie_classes_together() -> None:
    # Each class has three of four groups, so each pair of groups needs two splits, and there are three.
    members = [("a", "1 2 3"), ("b", "1 2 4"), ("c", "1 3 4"), ("d", "2 3 4")]
    labels = [label for label, groups in members for _ in groups.split()]
    groups = [group for _, names in members for group in names.split()]
    with pytest.raises(RequestError, match="can't be in every split"):
        assign(labels, groups, Split())


@pytest.mark.parametrize(
    ("pattern", "group"),
    [(r"patient(\d+)", "12"), (r"patient\d+", "patient12"), (r"nobody", None), (r"benign|(x)", None), (r"", "")],
)
def test_group_of(pattern: str, group: str | None) -> None:
    assert match_group("benign/patient12/scan3.png", compile_pattern(pattern)) == group


def test_groups_of_falls_back_to_the_id() -> None:
    ids = ["s/p1/a.png", "s/p1/b.png", "s/other.png"]
    paths = ["p1/a.png", "p1/b.png", "other.png"]
    rule = GroupRule(r"p\d")
    assert [rule.group(id, path) for id, path in zip(ids, paths, strict=True)] == ["p1", "p1", None]
    assert user_groups(ids, Split(group_by=r"p\d", ungrouped="single")) == ["p1", "p1", "s/other.png"]
    with pytest.raises(RequestError, match=r"1 of 3 images have no group by split.group_by p\\d, such as s/other.png"):
        user_groups(ids, Split(group_by=r"p\d"))


def test_patterns_that_are_none() -> None:
    with pytest.raises(RequestError, match=r"split.group_by '\(' is no regular expression"):
        user_groups(["a"], Split(group_by="("))
    with pytest.raises(RequestError, match=r"split.group_by 'x\+' matches no path; a path looks like 'a/1.png'"):
        user_groups(["a/1.png"], Split(group_by="x+"))


@given(sizes=st.lists(st.integers(5, 100), min_size=2, max_size=4), folds=st.integers(3, 5), seed=st.integers(0, 9))
def test_folds_share_each_class_evenly(sizes: list[int], folds: int, seed: int) -> None:
    labels = [f"class {i}" for i, size in enumerate(sizes) for _ in range(size)]
    dealt = assign_folds(labels, [str(i) for i in range(len(labels))], folds, seed).tolist()
    for i, size in enumerate(sizes):
        counts = Counter(fold for label, fold in zip(labels, dealt, strict=True) if label == f"class {i}")
        assert set(counts) == set(range(folds))
        assert set(counts.values()) <= {size // folds, size // folds + 1}


def test_a_group_lies_in_one_fold() -> None:
    labels = ["a", "b"] * 30
    groups = [str(i // 4) for i in range(60)]
    dealt = assign_folds(labels, groups, 5, seed=0).tolist()
    assert len(set(zip(groups, dealt, strict=True))) == 15
    assert Counter(dealt) == dict.fromkeys(range(5), 12)


def test_a_class_with_fewer_groups_than_folds() -> None:
    with pytest.raises(RequestError, match="class b has 4 images, too few to be in each of 5 folds; it needs at least"):
        assign_folds(["a"] * 9 + ["b"] * 4, [str(i) for i in range(13)], 5, seed=0)


def test_each_fold_is_tested_once_and_validated_once() -> None:
    sides = [[side_of_fold(fold, run, 4) for fold in range(4)] for run in range(4)]
    assert sides[0] == ["test", "val", "train", "train"]
    assert sides[3] == ["val", "train", "train", "test"]
    assert all(sorted(column) == ["test", "train", "train", "val"] for column in zip(*sides, strict=True))


def patients(mixed: bool) -> tuple[list[str], list[str]]:
    """Return labels and patients of the images of 300 patients with 1 to 24 images, of one or both of two classes."""
    random = np.random.default_rng(0)
    sizes = random.geometric(1 / 6, 300).clip(1, 24)
    groups = [f"p{patient}" for patient, size in enumerate(sizes) for _ in range(size)]
    labels = [("benign", "malignant")[patient % 2] for patient, size in enumerate(sizes) for _ in range(size)]
    if mixed:
        other = random.random(len(labels)) < 0.2
        labels = ["malignant" if changed else label for label, changed in zip(labels, other, strict=True)]
    return labels, groups


@pytest.mark.parametrize(("mixed", "seeds"), [(False, 50), (True, 20)])
def test_group_sizes_are_those_of_a_random_draw(mixed: bool, seeds: int) -> None:
    labels, groups = patients(mixed)
    sizes = Counter(groups)
    largest = {name for name, _ in sizes.most_common(60)}
    drawn: dict[str, list[int]] = {side: [] for side in SPLITS}
    of_largest = Counter[str]()
    for seed in range(seeds):
        sides = assign(labels, groups, Split(seed=seed))
        side_of = dict(zip(groups, sides, strict=True))
        assert len(set(zip(groups, sides, strict=True))) == len(side_of)  # no group is on two sides
        here: dict[str, list[int]] = {side: [] for side in SPLITS}
        for name, side in side_of.items():
            here[side].append(sizes[name])
            of_largest[side] += name in largest
        for side in SPLITS:
            assert ks_2samp(here[side], list(sizes.values())).pvalue > 0.05
            drawn[side] += here[side]
        # Assigning the largest groups first reached 0.157 and, with mixed groups, 0.154 points.
        assert max(share_deviation(labels, sides).values()) < 1.5 * 0.154
    assert all(ks_2samp(drawn["train"], drawn[side]).pvalue > 0.05 for side in ("val", "test"))
    # Largest first, no patient of the 60 largest was ever in val or test.
    assert of_largest["train"] / seeds == pytest.approx(42, abs=1)
    assert of_largest["test"] / seeds == pytest.approx(9, abs=1)


@pytest.mark.parametrize("size", [1, 2])
def test_equal_groups_keep_each_class_within_one_group_of_its_share(size: int) -> None:
    labels = [label for label, count in (("a", 437), ("b", 210), ("c", 133)) for _ in range(count * size)]
    groups = [f"{i // size}" for i in range(len(labels))]
    for seed in range(10):
        for label, counts in counted(labels, assign(labels, groups, Split(seed=seed))).items():
            exact = {side: labels.count(label) * getattr(Split(), side) for side in SPLITS}
            assert all(abs(counts[side] - exact[side]) < size + 1e-9 for side in SPLITS)


def test_group_sizes_by_hand() -> None:
    sides = ["train"] * 4 + ["test"] * 5
    assert group_sizes(["a", "a", "a", "b", "c", "d", "d", "e", "e"], sides) == {
        "test": SideGroups(groups=3, mean=1.667, median=2.0, largest=2),
        "train": SideGroups(groups=2, mean=2.0, median=2.0, largest=3),
    }


def test_deviation_by_hand() -> None:
    # a: 60 of 100 in the whole, 30 of 60 in train, 30 of 40 in test
    labels = ["a"] * 30 + ["b"] * 30 + ["a"] * 30 + ["b"] * 10
    sides = ["train"] * 60 + ["test"] * 40
    assert share_deviation(labels, sides) == {"test": pytest.approx(15), "train": pytest.approx(10)}


def test_groups_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,patient\nb/x,7\nb/y,7\nb/z,\n")
    rule = GroupRule(f"{tmp_path}/t.csv:patient", "single")
    assert rule.column
    paths = ("b/x", "b/y", "b/z", "b/w")
    for path in paths:
        rule.column.observe(f"a/{path}", path)
    rule.column.settle()
    assert [rule.group(f"a/{path}", path) for path in paths] == ["7", "7", None, None]
    rule.check_found()


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ("train val test", None),
        ("train val Test", r"t\.csv:side is 'Test' for 2; give each image train, val or test"),
        ("train val ", r"t\.csv:side has no value for 2; give each image train, val or test"),
        ("train val val", r"t\.csv:side has no image in test; give it at least one"),
    ],
)
def test_a_split_of_the_users_own(tmp_path: Path, sides: str, message: str | None) -> None:
    rows = "".join(f"{i},{side}\n" for i, side in enumerate(sides.split(" ")))
    (tmp_path / "t.csv").write_text("id,side\n" + rows)
    column = f"{tmp_path}/t.csv:side"
    rule = SplitRule(column)
    rule.column.lookup(["2", "0", "1"])
    found = [rule.split(id, "") for id in ("2", "0", "1")]
    if message is None:
        rule.check_found()
        assert found == ["test", "train", "val"]
    else:
        with pytest.raises(RequestError, match=message):
            rule.check_found()
