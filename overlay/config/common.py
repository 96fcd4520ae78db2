"""Option types, sections and validation that several verbs share."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from overlay.errors import RequestError

Place = Annotated[str, "path"]
"""a file or folder on a disk or in a bucket; `overlay submit` refuses a relative one"""
LocalPlace = Annotated[str, "local path"]
"""a file or folder on a disk; the command line refuses an address such as s3://bucket/..."""
SeveralPlaces = Annotated[str, "path,path"]
"""one `Place`, or several, separated by commas"""
TableColumn = Annotated[str, "file:column"]
"""a column of a table, FILE:column, or another text where the option takes one"""
WeightsSource = Annotated[str, "weights"]
"""a name of weights, a `Place`, or a URL (http, https)"""
ResizeRule = Literal["squash", "pad", "crop"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp16", "fp32", "int8"]
BatchSize = int | Literal["auto"]
"""images in one forward pass of an inference; auto is chosen for the device"""
EngineKind = Literal["auto", "torch", "compile", "openvino"]
LogFormat = Literal["text", "json"]
SPLITS = ("train", "val", "test")
MAX_PIXELS = 50_000_000
"""default for the largest image that is decoded, in pixels (width times height)"""


def check(right: bool, message: str) -> None:
    """Validate a condition on an option.

    Raises:
        RequestError: ``right`` is false; its message is ``message``.
    """
    if not right:
        raise RequestError(message)


def table_column(text: str) -> tuple[str, str] | None:
    """Split FILE:column into file and column, where the file is a table by its extension; None for any other text."""
    written = re.fullmatch(r"(.+\.(?:csv|tsv|tab|txt|parquet|xlsx)):([^:]+)", text, re.IGNORECASE)
    return (written[1], written[2]) if written else None


def dotted(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to the dotted names of the command line, such as ``train.epochs``."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@dataclass(frozen=True)
class OverlayStyle:
    """Overlay: how a mask is drawn on its image."""

    style: Literal["fill", "contour", "none"] = "fill"
    """fill tints the lesion, contour draws its outline, none leaves the image as it is"""
    color: str = "#ff3b30"
    """colour of the lesion, as #rrggbb"""
    alpha: float = 0.35
    """opacity of a fill, above 0 and at most 1"""
    width: int = 3
    """line width of a contour in pixels of an image whose longer side has 224, scaled to each image, at least 1"""

    def __post_init__(self) -> None:
        hexadecimal = (
            len(self.color) == 7 and self.color[0] == "#" and set(self.color[1:]) <= set("0123456789abcdefABCDEF")
        )
        check(hexadecimal, f"overlay.color is {self.color!r}; give it as #rrggbb, for example #ff3b30")
        check(0 < self.alpha <= 1, f"overlay.alpha is {self.alpha}; it must be above 0 and at most 1")
        check(self.width >= 1, f"overlay.width is {self.width}; it must be at least 1")


@dataclass(frozen=True)
class Images:
    """Reading of grey values of more than 8 bits."""

    bits: int | None = None
    """bits of 16-bit grey images whose files don't say how many they use, such as 12; default is the full range of the
    type, or what the model was trained with. Values are never scaled by their own range"""

    def __post_init__(self) -> None:
        check(self.bits is None or 8 <= self.bits <= 16, f"images.bits is {self.bits}; it must lie between 8 and 16")


@dataclass(frozen=True)
class Limits:
    """Limits against decompression bombs in archives, and on the processes that decode images."""

    member_bytes: int = 256 * 2**20
    """largest file in an archive, in bytes"""
    archive_bytes: int = 2**40
    """largest total size of one archive's files, in bytes"""
    members: int = 5_000_000
    """largest number of files in one archive"""
    ratio: float = 100.0
    """largest compression ratio of an archive, beyond the first 16 MiB"""
    seconds: float = 3600.0
    """longest time that listing one archive may take, in seconds"""
    decode_bytes: int = 4 * 2**30
    """most memory that decoding one image with its masks may take, in bytes"""
    decode_seconds: float = 60.0
    """longest time that decoding one image with its masks may take, in seconds"""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check(value > 0, f"limits.{name} is {value}; it must be above 0")


@dataclass(frozen=True)
class Legacy:
    """Classes and input of a model file of another program; not for model files of Overlay, whose card has them."""

    classes: str | None = None
    """class names, separated by commas, in the order of the outputs; default for three outputs is
    benign,malignant,normal"""
    size: int | None = None
    """side of the square input in pixels; default 224"""
    resize: ResizeRule | None = None
    """squash, pad or crop; default crop, as in Resize(256), CenterCrop(224)"""

    def __post_init__(self) -> None:
        right = self.size is None or 32 <= self.size <= 2048
        check(right, f"legacy.size is {self.size}; it must lie between 32 and 2048")


def check_batch_size(batch_size: BatchSize) -> None:
    """Validate a batch size.

    Raises:
        RequestError: it is a number below 1.
    """
    check(batch_size == "auto" or batch_size >= 1, f"batch_size is {batch_size}; it must be at least 1, or auto")


def check_engine(engine: EngineKind, precision: Precision) -> None:
    """Validate the combination of engine and precision.

    Raises:
        RequestError: the precision is int8 and the engine is not openvino, or fp16 and the engine is openvino.
    """
    check(
        precision != "int8" or engine in ("auto", "openvino"),
        f"precision is int8 and engine is {engine}; int8 is what openvino computes in",
    )
    check(
        precision != "fp16" or engine != "openvino",
        "precision is fp16 and engine is openvino; choose bf16, fp32 or int8 there",
    )


@dataclass(frozen=True)
class Tracking:
    """Weights & Biases tracking. The API key comes from WANDB_API_KEY or `wandb login`, never from an option."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto is online with an API key and disabled without one"""
    project: str = "overlay"
    """W&B project"""
    entity: str | None = None
    """W&B team or user; default is that of the API key"""
    name: str | None = None
    """name of the W&B run; default is the name of the folder"""
