"""Options of `overlay prepare` and `overlay predict` about masks."""

from dataclasses import dataclass

from overlay.config.common import check


@dataclass(frozen=True)
class MaskNames:
    """Names of masks, where they differ from those that are recognised (docs/data.md)."""

    suffix: str | None = None
    """text after the image's name in the name of a mask, such as _roi for x_roi.png; no other name is a mask then"""
    prefix: str | None = None
    """text before the image's name in the name of a mask, such as seg- for seg-x.png; no other name is a mask then"""
    folder: str | None = None
    """name of the folders of masks, such as ROI; no other folder is one then"""

    def __post_init__(self) -> None:
        for name in ("suffix", "prefix", "folder"):
            value = getattr(self, name)
            check(value is None or value.strip() != "", f"masks.{name} is empty; give it a text or leave it away")
            check(
                value is None or "/" not in value,
                f"masks.{name} is {value!r}; give a part of one file's or folder's name, without a slash",
            )


@dataclass(frozen=True)
class Masks(MaskNames):
    """Names of masks, and classes by their colours."""

    colors: str | None = None
    """classes by the colours of the masks, in place of class folders, such as #00ff00=benign,#ff0000=malignant; the
    class of images whose mask has no colour is that of #000000"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.classes_by_color()

    def classes_by_color(self) -> dict[int, str]:
        """Return colour, as the number 0xrrggbb, -> class; empty without ``colors``.

        Raises:
            RequestError: ``colors`` is malformed, names a colour twice, or has fewer than two classes.
        """
        found: dict[int, str] = {}
        for part in (self.colors or "").split(",") if self.colors is not None else ():
            color, _, label = (text.strip() for text in part.partition("="))
            right = len(color) == 7 and color[0] == "#" and set(color[1:].lower()) <= set("0123456789abcdef")
            check(
                right and label != "" and "/" not in label,
                f"masks.colors has {part.strip()!r}; give pairs such as #00ff00=benign,#ff0000=malignant",
            )
            number = int(color[1:], 16)
            check(number not in found, f"masks.colors names {color} twice; name each colour once")
            found[number] = label
        check(
            self.colors is None or len(set(found.values())) > 1,
            f"masks.colors is {self.colors!r}, of one class; a classifier needs two or more",
        )
        return found
