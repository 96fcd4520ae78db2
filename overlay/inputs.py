"""The inputs of a prediction: which files are images, which are their masks, and whether a folder tells the label.

They lie in folders, buckets or archives, or are named one by one.
Unlike a source of `overlay prepare`, an input needs no class folders, and nothing that was named is left out: what
can't be used becomes an input with the reason, and in the end a row with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pyarrow as pa

from overlay.archives import SPAN_TYPE
from overlay.config import Limits
from overlay.errors import RequestError
from overlay.listing import Holding, locate, look, name_places
from overlay.members import Span
from overlay.names import escaped, is_archive, sample_key
from overlay.sources import is_mask, pair
from overlay.storage import Place

MANIFEST_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("member", pa.string()),
        ("masks", pa.list_(pa.string())),
        ("true_label", pa.string()),
        ("reason", pa.string()),
        ("spans", pa.list_(SPAN_TYPE)),
    ]
)
"""a row of the manifest of a prediction"""


@dataclass(frozen=True)
class Input:
    """One image to classify."""

    id: str
    """path in the folder that was named, after that folder's name where there are several; unique"""
    uri: str
    member: str | None
    masks: tuple[str, ...]
    true_label: str | None
    """the nearest folder above the file that is called like a class"""
    reason: str | None
    """why it can't be used, where that is known from its name or its archive"""
    spans: tuple[Span, ...] | None = None
    """where the image, and then its masks, lie in the archive; None for files"""


@dataclass(frozen=True)
class Inputs:
    """All images to classify, in the order of their ids."""

    images: list[Input]
    passed_over: int
    """files in the folders that are no images by their names"""


def collect(inputs: Sequence[str], classes: Sequence[str], limits: Limits | None = None) -> Inputs:
    """List files, archives, and folders, these with all their subfolders.

    Raises:
        RequestError: an input isn't there, or there is no image in any of them.
    """
    holdings: list[Holding] = []
    single: dict[Place, list[str]] = {}
    seen: set[Place] = set()
    for given in inputs:
        place = locate(given, "input")
        if not place.is_folder() and not is_archive(place.name):
            single.setdefault(place.parent, []).append(place.name)
        elif place not in seen:
            seen.add(place)
            holdings += look(place, limits or Limits())
    for folder, names in single.items():
        whole = next((i for i, held in enumerate(holdings) if held.place == folder and held.spans is None), None)
        if whole is None:
            holdings.append(Holding(folder, names))
        else:
            holdings[whole] = replace(holdings[whole], names=[*holdings[whole].names, *names])
    images = []
    for holding, name in zip(holdings, name_places([held.place for held in holdings]), strict=True):
        images += _inputs(holding, f"{name}/" if len(holdings) > 1 else "", classes)
    if not images:
        raise RequestError(f"no image in {', '.join(inputs)}; name image files, archives, or folders that hold some")
    return Inputs(sorted(images, key=lambda image: image.id), sum(held.passed_over for held in holdings))


def _inputs(holding: Holding, prefix: str, classes: Sequence[str]) -> list[Input]:
    names = sorted(set(holding.names))
    # `pair` expects a class folder first; a prediction's input has none, so all get the same.
    pairing = pair([f"any/{name}" for name in names])
    in_archive = holding.spans is not None
    found = []
    for name in names:
        masks = [mask.removeprefix("any/") for mask in pairing.images.get(f"any/{name}", ())]
        reason = pairing.rejected.get(f"any/{name}")
        if f"any/{name}" in pairing.images or reason is not None:
            if reason is not None and not is_mask(f"any/{name}") and escaped(name) == name:
                reason = None  # an image without a mask, where others have one: it can be classified all the same
            found.append(
                Input(
                    id=escaped(prefix + name),
                    uri=escaped(holding.uri(name)),
                    member=escaped(name) if in_archive else None,
                    masks=tuple(masks if in_archive else map(holding.uri, masks)),
                    true_label=_label(holding, name, classes),
                    reason=reason,
                    spans=holding.spans_of([name, *masks]),
                )
            )
    return found + _troubles(holding, prefix, {image.id for image in found})


def _troubles(holding: Holding, prefix: str, taken: set[str]) -> list[Input]:
    """Make an input of each member of an archive that can't be used; names that occur again get a number."""
    found = []
    for member, reason in holding.troubles:
        first = id = escaped(prefix + (holding.place.name if member is None else member))
        number = 2
        while id in taken:
            id, number = f"{first}#{number}", number + 1
        taken.add(id)
        name = None if member is None else escaped(member)
        found.append(Input(id, escaped(str(holding.place)), name, (), None, reason))
    return found


def _label(holding: Holding, name: str, classes: Sequence[str]) -> str | None:
    names = {known.lower(): known for known in classes}
    folders = [*PurePosixPath(holding.place.path).parts, *PurePosixPath(name).parts[:-1]]
    told = [holding.labels.get(sample_key(name), ""), *reversed(folders)]
    return next((names[folder.lower()] for folder in told if folder.lower() in names), None)
