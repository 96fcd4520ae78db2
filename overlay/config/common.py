"""What the options of several verbs share: their checks, and the sections that more than one verb has."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from overlay.errors import RequestError

ResizeRule = Literal["squash", "pad", "crop"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp16", "fp32", "int8"]
EngineKind = Literal["auto", "torch", "compile", "openvino"]
SPLITS = ("train", "val", "test")
MAX_PIXELS = 50_000_000
"""default for the largest image that is decoded, in pixels"""


def check(right: bool, message: str) -> None:
    """Refuse a configuration.

    Raises:
        RequestError: with ``message``, where ``right`` is false.
    """
    if not right:
        raise RequestError(message)


def table_column(text: str) -> tuple[str, str] | None:
    """Return the file and the column of FILE.csv:column or FILE.parquet:column; None where a text is neither."""
    written = re.fullmatch(r"(.+\.(?:csv|parquet)):([^:]+)", text, re.IGNORECASE)
    return (written[1], written[2]) if written else None


def dotted(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration under the names that the command line uses, such as ``train.epochs``."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@dataclass(frozen=True)
class OverlayStyle:
    """How a mask is drawn on its image."""

    style: Literal["fill", "contour", "none"] = "fill"
    """fill tints the lesion, contour draws its outline, none leaves the image as it is"""
    color: str = "#ff3b30"
    """colour of the lesion, as #rrggbb"""
    alpha: float = 0.35
    """opacity of a fill, above 0 and at most 1"""
    width: int = 3
    """width of a contour in pixels of the original image"""

    def __post_init__(self) -> None:
        hexadecimal = (
            len(self.color) == 7 and self.color[0] == "#" and set(self.color[1:]) <= set("0123456789abcdefABCDEF")
        )
        check(hexadecimal, f"overlay.color is {self.color!r}; give it as #rrggbb, for example #ff3b30")
        check(0 < self.alpha <= 1, f"overlay.alpha is {self.alpha}; it must be above 0 and at most 1")
        check(self.width >= 1, f"overlay.width is {self.width}; it must be at least 1")


@dataclass(frozen=True)
class Limits:
    """How much of an archive is read, so that one made to do harm can't."""

    member_bytes: int = 256 * 2**20
    """largest image in an archive"""
    archive_bytes: int = 2**40
    """most that one archive may unpack to"""
    members: int = 5_000_000
    """most members of one archive"""
    ratio: float = 100.0
    """most bytes that an archive may unpack to for each of its own, beyond the first 16 MiB"""
    seconds: float = 3600.0
    """longest time that listing one archive may take"""

    def __post_init__(self) -> None:
        for name in ("member_bytes", "archive_bytes", "members", "ratio", "seconds"):
            check(getattr(self, name) > 0, f"limits.{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class Legacy:
    """What a model file of another program doesn't say of itself; for model files of Overlay these stay away."""

    classes: str | None = None
    """class names, separated by commas, in the order of the outputs; benign,malignant,normal for three outputs"""
    size: int | None = None
    """side in pixels of the square that the model sees; 224 where it is not given"""
    resize: ResizeRule | None = None
    """squash, pad or crop; crop where it is not given, as in Resize(256), CenterCrop(224)"""

    def __post_init__(self) -> None:
        right = self.size is None or 32 <= self.size <= 2048
        check(right, f"legacy.size is {self.size}; it must lie between 32 and 2048")


def check_engine(engine: EngineKind, precision: Precision) -> None:
    """Refuse an engine with a precision that it doesn't have.

    Raises:
        RequestError: it hasn't.
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
    """Weights & Biases. The key itself comes from WANDB_API_KEY or `wandb login`, never from an option."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto is online with a key and disabled without one"""
    project: str = "overlay"
    entity: str | None = None
    """team or user; W&B's own default where it is not given"""
    name: str | None = None
    """name of the run; the folder's name where it is not given"""
