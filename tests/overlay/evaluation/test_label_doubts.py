import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from overlay.evaluation.label_doubts import label_doubts


def test_confident_joint_of_eight_images() -> None:
    first = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.3, 0.4, 0.95])
    found = label_doubts(np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.stack([first, 1 - first], axis=1))
    np.testing.assert_allclose(found.thresholds, [0.625, 0.5375], atol=1e-15)
    np.testing.assert_array_equal(found.joint, [[3, 1], [1, 3]])
    assert sorted(found.images.tolist()) == [3, 7]
    # The 8th is contradicted more than the 4th.
    assert found.images.tolist() == [7, 3]
    assert found.suggested.tolist() == [0, 1]
    assert found.margin == pytest.approx([0.9, 0.8], abs=1e-15)


def test_equal_probabilities_reach_the_threshold_that_is_their_mean() -> None:
    probabilities = np.array([[0.9, 0.1]] * 3 + [[0.2, 0.8]] * 3)
    np.testing.assert_array_equal(label_doubts(np.array([0, 0, 0, 1, 1, 1]), probabilities).joint, [[3, 0], [0, 3]])


def test_a_class_without_images_is_never_suggested() -> None:
    found = label_doubts(np.array([0, 0, 1]), np.array([[0.1, 0.1, 0.8], [0.6, 0.2, 0.2], [0.2, 0.6, 0.2]]))
    assert found.thresholds[2] == np.inf
    assert (found.joint[:, 2] == 0).all()
    assert 2 not in found.suggested


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.int64, 15, elements=st.integers(0, 2)),
    hnp.arrays(np.int64, (15, 3), elements=st.integers(1, 9)),
    st.permutations(range(15)),
)
def test_joint_by_its_definition(labels: NDArray[np.int64], raw: NDArray[np.int64], order: list[int]) -> None:
    probabilities = raw / raw.sum(axis=1, keepdims=True)
    found = label_doubts(labels, probabilities)
    joint, doubted = np.zeros((3, 3), dtype=np.int64), []
    for image, (given_class, row) in enumerate(zip(labels, probabilities, strict=True)):
        reached = [c for c in range(3) if (labels == c).any() and row[c] >= probabilities[labels == c, c].mean() - 1e-6]
        if reached:
            likely = max(reached, key=lambda c: row[c])
            joint[given_class, likely] += 1
            doubted += [image] if likely != given_class else []
    np.testing.assert_array_equal(found.joint, joint)
    assert sorted(found.images.tolist()) == doubted
    assert (np.diff(found.margin) <= 0).all()
    again = label_doubts(labels[order], probabilities[order])
    assert sorted(np.array(order)[again.images].tolist()) == doubted
