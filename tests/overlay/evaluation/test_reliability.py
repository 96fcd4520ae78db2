import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from overlay.evaluation.reliability import reliability

CONFIDENCE = np.array([0.95, 0.95, 0.85, 0.75, 0.65, 0.55, 0.95, 0.85, 0.75, 0.65])
RIGHT = np.array([1, 1, 1, 1, 0, 1, 0, 1, 0, 1], dtype=bool)


def test_expected_calibration_error_of_ten_images() -> None:
    found = reliability(CONFIDENCE, RIGHT)
    assert found.expected_calibration_error == pytest.approx(0.24, abs=1e-15)
    np.testing.assert_array_equal(found.images, [0, 0, 0, 0, 0, 1, 2, 2, 2, 3])
    np.testing.assert_allclose(found.accuracy[5:], [1, 0.5, 0.5, 1, 2 / 3], atol=1e-15)
    np.testing.assert_allclose(found.confidence[5:], [0.55, 0.65, 0.75, 0.85, 0.95], atol=1e-15)
    assert np.isnan(found.accuracy[:5]).all()


def test_a_bin_includes_its_upper_edge_and_the_first_one_0() -> None:
    found = reliability(np.array([0.0, 0.5, 0.51, 1.0]), np.array([True] * 4), bins=2)
    np.testing.assert_array_equal(found.images, [2, 2])


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.float64, 20, elements=st.floats(0, 1)), hnp.arrays(np.bool_, 20))
def test_calibration_error_lies_in_0_to_1_and_counts_every_image(
    confidence: NDArray[np.float64], right: NDArray[np.bool_]
) -> None:
    found = reliability(confidence, right)
    assert 0 <= found.expected_calibration_error <= 1
    assert found.images.sum() == 20
    # Never less than the distance of the means.
    assert found.expected_calibration_error >= abs(confidence.mean() - right.mean()) - 1e-12
