"""Predictor: a model in Python, with the preprocessing, engine and results of `overlay predict`, without Ray."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile

from overlay.config import Device, EngineKind, Precision
from overlay.engines.base import NO_NUMBER
from overlay.engines.factory import open_engine, prepare_engine
from overlay.errors import ImageError, RequestError, one_line
from overlay.images.codec import encode_png, image_to_array
from overlay.images.ref import ImageRef
from overlay.images.resize import reduce_image, resize_image
from overlay.models import model_file
from overlay.sources.decode import decode_ref
from overlay.sources.reader import read_bytes
from overlay.storage.path import StoragePath

ImageInput = str | Path | bytes | Image.Image | NDArray[np.uint8]
"""path, URI in a bucket, bytes of an image file, Pillow image, or RGB pixels, uint8 (height, width, 3)"""
MaskInput = ImageInput | NDArray[np.bool_]
"""as `ImageInput`, or an array (height, width), uint8 or bool, as large as the image"""


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
        RequestError: ``device`` is none of these, or cuda and this machine has no GPU; or the engine or the precision
            does not support the model or the device.
    """

    def __init__(
        self,
        loaded: model_file.ModelFile,
        device: Literal["auto", "cpu", "cuda"],
        engine: EngineKind,
        precision: Precision,
        batch_size: int,
    ) -> None:
        if device not in get_args(Device):
            raise RequestError(f"device is {device}; choose cpu or cuda (mps is refused: nothing was measured there)")
        if device == "cuda" and not torch.cuda.is_available():
            raise RequestError("device is cuda, but this machine has no GPU; choose cpu")
        self.card = loaded.card
        """classes, input size and all other metadata of the model file"""
        chosen = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        self._engine = open_engine(prepare_engine(loaded, engine, chosen, precision), batch_size=batch_size)
        self.precision = self._engine.precision
        """numerical precision: bf16, fp16, fp32 or int8"""

    def predict(
        self,
        images: Sequence[ImageInput],
        masks: Sequence[MaskInput | Sequence[MaskInput] | None] | None = None,
        *,
        max_pixels: int | None = None,
    ) -> list[Prediction]:
        """Classify images; return one prediction for each, in their order.

        ``masks``: one entry for each image: its mask, several, or None; they are drawn as on the training images. A
        model that was trained on overlays and gets an image without a mask gives a UserWarning.
        ``max_pixels``: largest image that is decoded; by default the model's own limit.

        A Pillow image that is not loaded yet is decoded from its file, as `overlay predict` decodes it. Pixels (arrays,
        and Pillow images that are loaded or converted) are resized as they are, whereas a JPEG of more than twice the
        model's size is decoded at a half, a quarter or an eighth of its scale.

        Raises:
            RequestError: an image is of an unsupported type, or an array of another dtype or shape; or there is another
                number of masks than of images.
            OSError: a file can't be read for a transient cause.
        """
        of_each = _masks_of_each(masks, len(images))
        style = self.card.overlay
        if style is not None and style.style != "none" and (bare := of_each.count(())):
            warnings.warn(
                f"the model was trained on images with their masks drawn on them, and {bare} of these {len(images)} "
                "have no mask: what it says of bare images was never measured; give masks",
                stacklevel=2,
            )
        pixels: list[NDArray[np.uint8]] = []
        errors: list[str | None] = []
        for image, own in zip(images, of_each, strict=True):
            try:
                pixels.append(self._pixels(image, own, max_pixels or self.card.max_pixels))
                errors.append(None)
            except ImageError as error:
                errors.append(str(error))
        empty = np.empty((0, self.card.size, self.card.size, 3), np.uint8)
        rows = iter(self._engine(np.stack(pixels) if pixels else empty).probabilities)
        return [self._prediction(next(rows)) if error is None else Prediction(error=error) for error in errors]

    def _pixels(self, image: ImageInput, masks: Sequence[MaskInput], max_pixels: int) -> NDArray[np.uint8]:
        """Return the model's input of an image, uint8 (size, size, 3)."""
        content = _content(image, self.card.bits)
        if isinstance(content, np.ndarray):
            if content.dtype != np.uint8 or content.ndim != 3 or content.shape[2] != 3 or 0 in content.shape:
                raise RequestError(
                    f"an image is {content.dtype} {content.shape}; an array must be uint8 (height, width, 3)"
                )
            if not masks:
                return resize_image(reduce_image(content, self.card.max_side), self.card.size, self.card.resize)
            content = encode_png(content)
        named: dict[str, bytes] = {}
        names = [_name_of(each, named) for each in (content, *map(_mask_content, masks))]
        ref = ImageRef(names[0], names[0], masks=tuple(names[1:]))

        def read(name: str) -> bytes:
            return named[name] if name in named else read_bytes(name)

        return decode_ref(ref, self.card, max_pixels, read, self.card.bits)

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


def _masks_of_each(
    masks: Sequence[MaskInput | Sequence[MaskInput] | None] | None, images: int
) -> list[tuple[MaskInput, ...]]:
    """Return the masks of each image, none where it has none.

    Raises:
        RequestError: there is another number of entries than of images.
    """
    if masks is None:
        return [()] * images
    if len(masks) != images:
        raise RequestError(f"there are {len(masks)} masks for {images} images; give one entry for each, None for none")
    of_each: list[tuple[MaskInput, ...]] = []
    for one in masks:
        if isinstance(one, str | Path | bytes | Image.Image | np.ndarray):
            of_each.append((one,))
        else:
            of_each.append(() if one is None else tuple(one))
    return of_each


def _content(image: ImageInput, bits: int | None = None) -> str | bytes | NDArray[np.uint8]:
    """Return an image as its place, the bytes of its file, or pixels; ``bits`` is that of `ModelCard`.

    Raises:
        RequestError: it is of another type.
    """
    if isinstance(image, str | Path):
        return str(StoragePath.of(image))
    if isinstance(image, bytes | np.ndarray):
        return image
    if isinstance(image, Image.Image):
        return _unread_bytes(image) or image_to_array(image, bits)
    raise RequestError(f"an image is a {type(image).__name__}; give a path, bytes, a Pillow image or an array")


def _mask_content(mask: MaskInput) -> str | bytes:
    """Return a mask as its place, or the bytes of a file.

    Raises:
        RequestError: it is of another type, or an array of another dtype or shape.
        ImageError: it is a Pillow image of a kind that no PNG can hold.
    """
    if isinstance(mask, np.ndarray):
        flat = mask.ndim == 2 or (mask.ndim == 3 and mask.shape[2] == 3)
        if mask.dtype not in (np.uint8, np.bool_) or not flat or 0 in mask.shape:
            raise RequestError(f"a mask is {mask.dtype} {mask.shape}; an array must be uint8 or bool, (height, width)")
        mask = Image.fromarray(mask)
    if not isinstance(mask, Image.Image):
        content = _content(mask)
        assert not isinstance(content, np.ndarray)  # it is neither a Pillow image nor an array
        return content
    if unread := _unread_bytes(mask):
        return unread
    stream = io.BytesIO()
    try:
        mask.save(stream, "PNG", compress_level=1)
    except OSError as error:
        raise ImageError(f"mask that can't be used: {one_line(error)}") from error
    return stream.getvalue()


def _unread_bytes(image: Image.Image) -> bytes | None:
    """Return the bytes of the file of a Pillow image, without decoding it; None where it is decoded already.

    The scale at which `overlay predict` decodes a large JPEG can't be had from its pixels.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.fp is None or not image.tile or image.tell() != 0:
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    try:
        return image.fp.read()
    finally:
        image.fp.seek(position)


def _name_of(content: str | bytes, named: dict[str, bytes]) -> str:
    """Return the name that a content is read by: its place, or a new one in ``named``."""
    if isinstance(content, str):
        return content
    name = f"<{len(named)}>"
    named[name] = content
    return name
