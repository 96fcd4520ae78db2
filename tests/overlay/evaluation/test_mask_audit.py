import numpy as np
import pytest

from overlay.evaluation.mask_audit import audit_row, audited_rows


def test_a_view_is_compared_in_pairs() -> None:
    labels = np.zeros(20, np.int64)
    reference, answers = labels.copy(), labels.copy()
    # The view alone is right for 5 images, the overlay alone for 15: known answer of the exact test.
    reference[:5] = 1
    answers[5:] = 1
    row = audit_row(labels, answers, reference, np.arange(20))
    assert (row.accuracy.value, row.difference.value) == (0.25, -0.5)
    assert row.p == pytest.approx(0.04138946533203125, abs=1e-15)
    assert row.kept == 0
    assert row.difference.low < -0.5 < row.difference.high


def test_equal_answers_differ_in_nothing() -> None:
    labels, answers = np.array([0, 1, 2, 0]), np.array([0, 1, 1, 0])
    row = audit_row(labels, answers, answers, np.array([0, 0, 1, 2]))
    assert (row.difference.value, row.p, row.kept) == (0, 1, 1)


@pytest.mark.parametrize("images", [1, 2, 999, 1000, 1001, 12_345])
def test_a_large_split_is_audited_in_part_and_evenly(images: int) -> None:
    rows = audited_rows(images)
    assert len(rows) == min(images, 1000)
    assert rows[0] == 0
    assert rows[-1] == images - 1
    steps = np.diff(rows)
    assert images == 1 or steps.max() - steps.min() <= 1
