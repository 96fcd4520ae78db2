import numpy as np
import pytest

from overlay.evaluation.curves import accuracy_without_least_sure, compute_curves


def test_the_least_sure_images_are_set_aside_first() -> None:
    confidence = np.array([0.9, 0.5, 0.6, 0.6, 0.8, 0.95, 0.99, 1.0])
    right = np.array([True, False, False, True, True, True, False, True])
    share, accuracy = accuracy_without_least_sure(confidence, right)
    # The two of 0.6 go together, and five images are left at least.
    assert share.tolist() == [0, 1 / 8, 3 / 8]
    assert accuracy.tolist() == pytest.approx([5 / 8, 5 / 7, 4 / 5])


@pytest.mark.parametrize("images", [1, 3])
def test_of_few_images_there_is_one_point(images: int) -> None:
    share, accuracy = accuracy_without_least_sure(np.linspace(0.5, 0.6, images), np.ones(images, bool))
    assert (share.tolist(), accuracy.tolist()) == ([0], [1])


def test_many_images_make_few_points() -> None:
    share, _ = accuracy_without_least_sure(np.linspace(0.3, 1, 10_000), np.ones(10_000, bool))
    assert len(share) == 200
    assert (share[0], share[-1]) == (0, (10_000 - 5) / 10_000)


def test_a_class_without_images_has_no_roc_curve() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.9, 0.1, 0], [0.4, 0.6, 0], [0.3, 0.7, 0], [0.5, 0.5, 0]])
    curves = compute_curves(labels, probabilities, ["a", "b", "c"])
    assert [(curve.name, curve.area) for curve in curves.roc] == [("a", 0.75), ("b", 0.75)]
    assert curves.reliability.images.sum() == 4
