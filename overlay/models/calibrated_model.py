"""Calibration of a trained model: temperature in the weights of its last layer, thresholds in its card.

The logits of the last Linear layer are divided by the temperature by dividing its weight and bias, so that everything
that reads the file gives calibrated probabilities: torch.load, ONNX, OpenVINO, programs that know no card. The labels
stay the same.
"""

from collections import OrderedDict
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from overlay.config import Calibration
from overlay.models import calibration
from overlay.models.model_file import CalibratedOn, ModelCard
from overlay.models.network import StateDict, head_name
from overlay.models.torchvision_weights import empty_network

_LEAST_PROBABILITY = float(np.finfo(np.float32).tiny)
# Relative: the divided weights give the probabilities computed here but for rounding, and the image at a threshold is
# to stay on its side.
_ROUNDING = 1e-4


def calibrate_model(
    state: StateDict,
    card: ModelCard,
    options: Calibration,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
) -> tuple[StateDict, ModelCard]:
    """Return the weights and the card of a model, calibrated on the validation split.

    Args:
        state: of the uncalibrated model.
        card: of the uncalibrated model.
        options: as given to the training.
        labels: (n,) true class indices of the validation images.
        probabilities: (n, C) of the uncalibrated model, finite.
    """
    # A softmax takes no notice of a constant that is added to a row, so these serve as logits.
    logits = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    temperature = calibration.fit_temperature(logits, labels)
    calibrated = temper_probabilities(probabilities, temperature.value)
    positive = options.positive_class(card.classes)
    point = None
    if positive is not None:
        index = card.classes.index(positive)
        point = calibration.point_of_sensitivity(labels == index, calibrated[:, index], options.sensitivity)
    sure = calibration.uncertain_below(calibrated.max(axis=1), options.uncertain)
    described = replace(
        card,
        temperature=temperature.value,
        calibrated_on=CalibratedOn(temperature.images, temperature.mistakes, temperature.outcome),
        positive=positive,
        threshold=None if point is None else point.threshold * (1 - _ROUNDING),
        threshold_n=0 if point is None else point.positives,
        uncertain_below=None if sure is None else sure * (1 - _ROUNDING),
    )
    return divide_head(state, card, temperature.value), described


def divide_head(state: StateDict, card: ModelCard, temperature: float) -> StateDict:
    """Return a copy of a state_dict whose last Linear layer gives the logits divided by a temperature."""
    head = head_name(empty_network(card.arch, len(card.classes), card.head))
    names = (f"{head}.weight", f"{head}.bias")
    return OrderedDict((name, tensor / temperature if name in names else tensor) for name, tensor in state.items())


def temper_probabilities(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return the (n, C) probabilities of the same logits divided by a temperature."""
    if temperature == 1:
        return probabilities
    logits = np.log(np.maximum(probabilities, _LEAST_PROBABILITY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    tempered: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return tempered
