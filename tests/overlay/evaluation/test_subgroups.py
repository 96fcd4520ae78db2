import numpy as np
import pyarrow as pa
import pytest

from overlay.evaluation.answers import EvaluatedAnswers
from overlay.evaluation.subgroups import (
    Subgroup,
    SubgroupColumn,
    SubgroupTable,
    measure_subgroups,
    number_thirds,
    own_columns,
)

LABELS = np.array([0, 0, 1, 1, 1, 0])
PREDICTED = np.array([0, 1, 1, 1, 0, 0])
ANSWERS = EvaluatedAnswers(LABELS, PREDICTED, np.array([0, 1, 2, 5, 5, 9]), LABELS == 1, PREDICTED == 1)


def measured(column: SubgroupColumn, answers: EvaluatedAnswers = ANSWERS) -> tuple[Subgroup, ...]:
    table = measure_subgroups(column, answers)
    assert isinstance(table, SubgroupTable)
    assert table.column == column.name
    return table.subgroups


def test_each_value_has_its_own_results() -> None:
    b, a = measured(SubgroupColumn("hospital", ["a", "a", "b", "b", "b", "b"]))
    assert (b.name, b.images, b.accuracy.value, b.accuracy.groups) == ("b", 4, 0.75, 3)
    assert b.sensitivity is not None
    assert (b.sensitivity.value, b.sensitivity.images, b.sensitivity.groups) == (2 / 3, 3, 2)
    assert (a.name, a.images, a.accuracy.value, a.sensitivity) == ("a", 2, 0.5, None)
    assert a.few


def test_images_without_a_value_are_a_subgroup() -> None:
    assert [found.name for found in measured(SubgroupColumn("age", ["x", None, None, None, "x", "x"]))] == [
        "not given",
        "x",
    ]


def test_one_value_makes_no_subgroups() -> None:
    assert measure_subgroups(SubgroupColumn("hospital", ["a"] * 6), ANSWERS) is None


def test_without_a_positive_class_there_is_no_sensitivity() -> None:
    answers = EvaluatedAnswers(LABELS, PREDICTED, ANSWERS.groups)
    assert [found.sensitivity for found in measured(SubgroupColumn("x", list("ababab")), answers)] == [None, None]


def many(n: int) -> EvaluatedAnswers:
    zeros = np.zeros(n, np.int64)
    return EvaluatedAnswers(zeros, zeros, np.arange(n))


def test_rare_texts_are_put_together() -> None:
    values = [f"hospital {i:02}" for i in range(30)] + ["hospital 07"]
    found = measured(SubgroupColumn("hospital", values), many(31))
    assert [group.name for group in found[:3]] == ["hospital 07", "hospital 00", "hospital 01"]
    assert (len(found), found[-1].name, found[-1].images) == (20, "11 others", 11)


def test_many_numbers_are_divided_into_thirds() -> None:
    found = measured(SubgroupColumn("age", [str(age) for age in range(31, 61)]), many(30))
    assert [(group.name, group.images) for group in found] == [
        ("up to 40.7", 10),
        ("40.7 to 50.3", 10),
        ("above 50.3", 10),
    ]


def test_the_datasets_own_columns() -> None:
    rows = pa.table(
        {
            "source": ["x", "x", "y", "y"],
            "mask_lesions": pa.array([None, 1, 2, 4], pa.int32()),
            "mask_area_share": [None, 0.01, 0.05, 0.2],
        }
    )
    source, lesions, area = own_columns(rows)
    assert list(source.values) == ["x", "x", "y", "y"]
    assert list(lesions.values) == ["none", "one", "two", "three or more"]
    assert list(area.values) == ["no lesion", "up to 3.7\xa0%", "3.7\xa0% to 10.0\xa0%", "above 10.0\xa0%"]
    found = measured(area, many(4))
    assert [group.name for group in found] == [
        "no lesion",
        "up to 3.7\xa0%",
        "3.7\xa0% to 10.0\xa0%",
        "above 10.0\xa0%",
    ]


@pytest.mark.parametrize("numbers", [[], [np.nan], [1.0, 1.0, 2.0, np.nan]])
def test_few_different_numbers_make_no_thirds(numbers: list[float]) -> None:
    names, _ = number_thirds(np.array(numbers), str)
    assert names == ["not given" if np.isnan(number) else "given" for number in numbers]
