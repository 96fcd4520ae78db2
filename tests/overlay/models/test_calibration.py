import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy.special import log_softmax

from overlay.models.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    OperatingPoint,
    best_temperature,
    fit_temperature,
    point_of_sensitivity,
    point_of_specificity,
    tempered_log_loss,
    uncertain_below,
)

LAW = settings(deadline=None, max_examples=60)
POSITIVE = np.array([True] * 5 + [False] * 10)
SCORES = np.array([0.9, 0.8, 0.55, 0.4, 0.3, 0.7, 0.5, 0.35, 0.2, 0.15, 0.1, 0.05, 0.02, 0.01, 0])


def equal_rows(row: list[float], right: int, wrong: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits whose largest is the first, of which some are right."""
    return np.tile(np.array(row, dtype=np.float64), (right + wrong, 1)), np.repeat([0, 1], [right, wrong])


def test_temperature_of_five_images() -> None:
    logits, labels = equal_rows([3, 0, 0], right=4, wrong=1)
    found = best_temperature(logits, labels)
    assert found == pytest.approx(3 / np.log(8), abs=1e-10)
    assert tempered_log_loss(logits, labels, 1) == pytest.approx(0.6949229564, abs=5e-11)
    assert tempered_log_loss(logits, labels, 3 / np.log(8)) == pytest.approx(0.6390318597, abs=5e-11)


def test_temperature_of_four_images() -> None:
    found = best_temperature(*equal_rows([2, 0], right=3, wrong=1))
    assert found == pytest.approx(2 / np.log(3), abs=1e-10)


def test_fitted_temperature_with_enough_mistakes() -> None:
    found = fit_temperature(*equal_rows([3, 0, 0], right=20, wrong=5))
    assert found.value == pytest.approx(3 / np.log(8), abs=1e-10)
    assert (found.outcome, found.images, found.mistakes) == ("fitted", 25, 5)
    assert found.log_loss_before == pytest.approx(0.6949229564, abs=5e-11)
    assert found.log_loss_after == pytest.approx(0.6390318597, abs=5e-11)


def test_four_mistakes_are_too_few() -> None:
    found = fit_temperature(*equal_rows([3, 0, 0], right=16, wrong=4))
    assert (found.value, found.outcome, found.mistakes) == (1, "too few mistakes", 4)
    assert found.log_loss_before == found.log_loss_after


def test_all_right_diverges_to_0() -> None:
    logits, labels = equal_rows([3, 0, 0], right=9, wrong=0)
    assert best_temperature(logits, labels) is None
    assert fit_temperature(logits, labels).value == 1


def test_logits_that_tell_nothing_diverge_to_infinity() -> None:
    logits, labels = equal_rows([3, 0, 0], right=2, wrong=7)
    assert best_temperature(logits, labels) is None
    found = fit_temperature(logits, labels)
    assert (found.value, found.outcome) == (1, "diverged")


def test_a_finite_temperature_stops_at_the_limits() -> None:
    assert best_temperature(*equal_rows([0.01, 0, 0], right=8, wrong=2)) == LOWEST_TEMPERATURE
    assert best_temperature(*equal_rows([90, 0, 0], right=8, wrong=2)) == HIGHEST_TEMPERATURE


@LAW
@given(
    hnp.arrays(np.float64, (12, 3), elements=st.floats(-20, 20, width=16)),
    hnp.arrays(np.int64, 12, elements=st.integers(0, 2)),
)
def test_no_temperature_in_the_range_has_a_lower_log_loss(
    logits: NDArray[np.float64], labels: NDArray[np.int64]
) -> None:
    found = fit_temperature(logits, labels)
    assert LOWEST_TEMPERATURE <= found.value <= HIGHEST_TEMPERATURE
    assert found.log_loss_after <= found.log_loss_before + 1e-12
    best = best_temperature(logits, labels)
    if best is not None:
        lowest = tempered_log_loss(logits, labels, best)
        for temperature in np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 41):
            assert lowest <= tempered_log_loss(logits, labels, float(temperature)) + 1e-9


@LAW
@given(
    hnp.arrays(np.float64, (12, 3), elements=st.integers(-20, 20)),
    hnp.arrays(np.int64, 12, elements=st.integers(0, 2)),
)
def test_log_probabilities_are_logits(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    best, again = best_temperature(logits, labels), best_temperature(log_softmax(logits, axis=1), labels)
    assert again == (None if best is None else pytest.approx(best, rel=1e-5))


def test_an_average_true_logit_equal_to_the_others_diverges_in_spite_of_rounding() -> None:
    logits = np.array([[1.0, 0, 0], [0, 1, 1], *[[1, 1, 1]] * 10])
    labels = np.zeros(12, np.int64)
    assert best_temperature(logits, labels) is None
    assert best_temperature(log_softmax(logits, axis=1), labels) is None


def test_the_least_sure_tenth_lies_below_the_threshold() -> None:
    confidence = np.linspace(0.5, 0.99, 50)[::-1]
    threshold = uncertain_below(confidence, 0.1)
    assert threshold is not None
    assert threshold == np.sort(confidence)[5]
    assert (confidence < threshold).sum() == 5


@pytest.mark.parametrize(("images", "share"), [(50, 0), (9, 0.1), (0, 0.1)])
def test_no_share_and_less_than_an_image_have_no_threshold(images: int, share: float) -> None:
    assert uncertain_below(np.linspace(0.5, 1, images), share) is None


@LAW
@given(hnp.arrays(np.float64, st.integers(0, 40), elements=st.sampled_from([0.4, 0.5, 0.6, 0.9])), st.floats(0, 0.9))
def test_at_most_the_share_is_uncertain(confidence: NDArray[np.float64], share: float) -> None:
    threshold = uncertain_below(confidence, share)
    if threshold is not None:
        assert (confidence < threshold).sum() <= share * len(confidence) + 1e-6
        assert (confidence <= threshold).sum() > share * len(confidence) - 1e-6 - 1


def test_operating_points_of_fifteen_images() -> None:
    assert point_of_specificity(POSITIVE, SCORES, 0.9) == OperatingPoint(0.55, 0.6, 0.9, 5, 10)
    assert point_of_sensitivity(POSITIVE, SCORES, 0.8) == OperatingPoint(0.4, 0.8, 0.8, 5, 10)


def test_a_share_of_images_that_is_whole_needs_no_further_image() -> None:
    # 0.07 * 100 is above 7 in binary arithmetic.
    found = point_of_sensitivity(np.ones(100, dtype=bool), np.arange(100) / 100, 0.07)
    assert found == OperatingPoint(0.93, 0.07, None, 100, 0)


def test_operating_points_that_do_not_exist() -> None:
    assert point_of_sensitivity(~POSITIVE[:0], SCORES[:0], 0.9) is None
    assert point_of_specificity(np.ones(3, dtype=bool), SCORES[:3], 0.9) is None
    assert point_of_specificity(np.array([True, False]), np.array([0.1, 0.2]), 0.9) is None


@LAW
@given(
    hnp.arrays(np.bool_, 20),
    hnp.arrays(np.float64, 20, elements=st.sampled_from([0, 0.2, 0.3, 0.7, 1])),
    st.floats(0.05, 1),
)
def test_no_other_threshold_reaches_the_share_with_less_on_the_other_side(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], share: float
) -> None:
    sensitive, specific = point_of_sensitivity(positive, scores, share), point_of_specificity(positive, scores, share)
    assert (sensitive is None) == (not positive.any())
    if not positive.any() or positive.all():
        assert specific is None
        return
    assert sensitive is not None
    assert sensitive.specificity is not None
    assert sensitive.sensitivity >= share - 1e-8
    assert specific is None or (specific.specificity is not None and specific.specificity >= share - 1e-8)
    for threshold in np.unique(scores):
        sensitivity = float((scores[positive] >= threshold).mean())
        specificity = float((scores[~positive] < threshold).mean())
        if sensitivity >= share:
            assert sensitive.specificity >= specificity
        if specificity >= share and sensitivity > 0:
            assert specific is not None
            assert specific.sensitivity >= sensitivity
