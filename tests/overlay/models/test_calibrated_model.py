from collections import OrderedDict

import numpy as np
import pytest
import torch
import torchvision

from overlay.config import Calibration
from overlay.errors import RequestError
from overlay.models.calibrated_model import calibrate_model, divide_head, temper_probabilities
from overlay.models.calibration import uncertain_below
from overlay.models.model_file import CalibratedOn, ModelCard
from overlay.models.network import StateDict

CLASSES = ("benign", "malignant", "normal")
CARD = ModelCard("resnet18", CLASSES, 32, "squash", (0.5,) * 3, (0.5,) * 3, None, "", "", "")
NOTHING: StateDict = OrderedDict({"fc.weight": torch.ones(3, 2), "fc.bias": torch.tensor([1.0, 2.0, 3.0])})


def validation(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are twice as sure as they may be."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, 3))
    powers = np.exp(logits)
    labels = np.array([rng.choice(3, p=row / row.sum()) for row in powers])
    return labels, temper_probabilities(powers / powers.sum(axis=1, keepdims=True), 0.5)


def test_the_card_has_temperature_threshold_and_uncertainty() -> None:
    labels, probabilities = validation()
    state, card = calibrate_model(NOTHING, CARD, Calibration(), labels, probabilities)
    assert card.temperature == pytest.approx(2, abs=0.4)
    mistakes = int((probabilities.argmax(axis=1) != labels).sum())
    assert card.calibrated_on == CalibratedOn(200, mistakes, "fitted")
    calibrated = temper_probabilities(probabilities, card.temperature)
    positive = labels == 1
    assert card.threshold is not None
    assert (card.positive, card.threshold_n) == ("malignant", int(positive.sum()))
    flagged = calibrated[:, 1] >= card.threshold
    assert flagged[positive].mean() >= 0.95
    higher = np.sort(calibrated[positive, 1])[int(0.05 * positive.sum()) + 1]
    assert (calibrated[positive, 1] >= higher).mean() < 0.95
    assert card.uncertain_below == pytest.approx(uncertain_below(calibrated.max(axis=1), 0.1), rel=1e-3)
    assert (calibrated.max(axis=1) < card.uncertain_below).sum() == 20
    assert torch.equal(state["fc.weight"], torch.ones(3, 2) / card.temperature)
    assert torch.equal(state["fc.bias"], NOTHING["fc.bias"] / card.temperature)
    assert torch.equal(NOTHING["fc.weight"], torch.ones(3, 2))


def test_few_mistakes_leave_the_weights_as_they_are() -> None:
    labels, probabilities = np.array([0, 1, 2, 0]), np.eye(3)[[0, 1, 2, 1]] * 0.7 + 0.1
    state, card = calibrate_model(NOTHING, CARD, Calibration(uncertain=0), labels, probabilities)
    assert (card.temperature, card.uncertain_below) == (1.0, None)
    assert card.calibrated_on == CalibratedOn(4, 1, "too few mistakes")
    assert torch.equal(state["fc.weight"], NOTHING["fc.weight"])


def test_the_positive_class_is_malignant_or_what_is_asked_for_or_none() -> None:
    labels, probabilities = validation(50)
    other = calibrate_model(NOTHING, CARD, Calibration(positive="normal", sensitivity=1), labels, probabilities)[1]
    assert (other.positive, other.threshold_n) == ("normal", int((labels == 2).sum()))
    renamed = ModelCard("resnet18", ("a", "b", "c"), 32, "squash", (0.5,) * 3, (0.5,) * 3, None, "", "", "")
    nobody = calibrate_model(NOTHING, renamed, Calibration(), labels, probabilities)[1]
    assert (nobody.positive, nobody.threshold, nobody.flag) == (None, None, None)
    with pytest.raises(
        RequestError, match=r"positive is 'malign'; choose one of the classes benign, malignant, normal"
    ):
        Calibration(positive="malign").positive_class(CLASSES)


def test_a_validation_split_without_positive_images_gives_no_threshold() -> None:
    labels, probabilities = validation(50)
    kept = labels != 1
    card = calibrate_model(NOTHING, CARD, Calibration(), labels[kept], probabilities[kept])[1]
    assert (card.positive, card.threshold, card.threshold_n, card.flag) == ("malignant", None, 0, None)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v3_small"])
def test_logits_are_divided_in_every_family(arch: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(arch, num_classes=3).eval()
    card = ModelCard(arch, CLASSES, 224, "squash", (0.5,) * 3, (0.5,) * 3, None, "", "", "")
    divided = torchvision.models.get_model(arch, num_classes=3).eval()
    divided.load_state_dict(divide_head(OrderedDict(network.state_dict()), card, 2.5))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        torch.testing.assert_close(divided(image) * 2.5, network(image), atol=1e-4, rtol=1e-4)


def test_a_temperature_and_its_inverse_give_the_probabilities_back() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 50)
    there = temper_probabilities(probabilities, 1.7)
    np.testing.assert_allclose(temper_probabilities(there, 1 / 1.7), probabilities, atol=1e-12)
    np.testing.assert_array_equal(there.argmax(axis=1), probabilities.argmax(axis=1))
    assert there.max() < probabilities.max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sensitivity": 0.0}, "calibration.sensitivity is 0.0; it must be above 0 and at most 1"),
        ({"uncertain": 1.0}, "calibration.uncertain is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        Calibration(**options)  # type: ignore[arg-type]
    assert str(refused.value) == message
