"""Predictor: a model in Python, with the preprocessing, engine and results of `overlay predict`, without Ray."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from overlay.config import EngineKind, Precision
from overlay.engines.base import NO_NUMBER
from overlay.engines.factory import open_engine, prepare_engine
from overlay.errors import ImageError, RequestError
from overlay.images.codec import image_to_array
from overlay.images.ref import ImageRef
from overlay.images.resize import resize_image
from overlay.models import model_file
from overlay.sources.decode import decode_ref
from overlay.sources.reader import read_bytes
from overlay.storage.path import StoragePath

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""path, URI in a bucket, bytes of an image file, Pillow image, or RGB pixels, uint8 (height, width, 3)"""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image; without a label where the image can't be used."""

    label: str | None = None
    confidence: float | None = None
    """probability of the label, 0 to 1"""
    probabilities: dict[str, float] = field(default_factory=dict)
    """class -> probability"""
    uncertain: bool | None = None
    """whether the confidence is below the model's threshold; None for a model without a threshold"""
    flag: bool | None = None
    """whether the probability of the model's positive class reaches its threshold; None for a model without one"""
    error: str | None = None
    """reason why the image can't be used"""


class Predictor:
    """Loaded model that classifies images in this process; made by `overlay.load_model`.

    Raises:
        RequestError: ``device`` is cuda and this machine has no GPU, or the engine or the precision does not support
            the model or the device.
    """

    def __init__(
        self,
        loaded: model_file.ModelFile,
        device: Literal["auto", "cpu", "cuda"],
        engine: EngineKind,
        precision: Precision,
        batch_size: int,
    ) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise RequestError("device is cuda, but this machine has no GPU; choose cpu")
        self.card = loaded.card
        """classes, input size and all other metadata of the model file"""
        chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self._engine = open_engine(prepare_engine(loaded, engine, chosen, precision), batch_size=batch_size)
        self.precision = self._engine.precision
        """numerical precision: bf16, fp16, fp32 or int8"""

    def predict(self, images: Sequence[ImageInput], *, max_pixels: int | None = None) -> list[Prediction]:
        """Classify images; return one prediction for each, in their order.

        ``max_pixels``: largest image that is decoded; by default the model's own limit.

        Raises:
            RequestError: an image is of an unsupported type, or an array of another dtype or shape.
            OSError: a file can't be read for a transient cause.
        """
        pixels: list[NDArray[np.uint8]] = []
        errors: list[str | None] = []
        for image in images:
            try:
                pixels.append(self._pixels(image, max_pixels or self.card.max_pixels))
                errors.append(None)
            except ImageError as error:
                errors.append(str(error))
        empty = np.empty((0, self.card.size, self.card.size, 3), np.uint8)
        rows = iter(self._engine(np.stack(pixels) if pixels else empty).probabilities)
        return [self._prediction(next(rows)) if error is None else Prediction(error=error) for error in errors]

    def _pixels(self, image: ImageInput, max_pixels: int) -> NDArray[np.uint8]:
        """Return the model's input of an image, uint8 (size, size, 3)."""
        if isinstance(image, str | Path):
            place = str(StoragePath.of(image))
            return decode_ref(ImageRef(place, place), self.card, max_pixels, read_bytes)
        if isinstance(image, bytes):
            return decode_ref(ImageRef("", ""), self.card, max_pixels, lambda _: image)
        if isinstance(image, Image.Image):
            return resize_image(image_to_array(image), self.card.size, self.card.resize)
        if not isinstance(image, np.ndarray):
            raise RequestError(f"an image is a {type(image).__name__}; give a path, bytes, a Pillow image or an array")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise RequestError(f"an image is {image.dtype} {image.shape}; an array must be uint8 (height, width, 3)")
        return resize_image(image, self.card.size, self.card.resize)

    def _prediction(self, probabilities: NDArray[np.float32]) -> Prediction:
        by_class = dict(zip(self.card.classes, probabilities.tolist(), strict=True))
        if not np.isfinite(probabilities).all():
            return Prediction(error=NO_NUMBER)
        best = int(probabilities.argmax())
        threshold = self.card.uncertain_below
        # As float32, like the columns of `overlay predict`.
        uncertain = None if threshold is None else bool(probabilities[best] < threshold)
        flag = None
        if self.card.flag is not None:
            positive, least = self.card.flag
            flag = bool(probabilities[self.card.classes.index(positive)] >= least)
        return Prediction(self.card.classes[best], float(probabilities[best]), by_class, uncertain, flag)
