"""Data of the evaluation report: protocol, mask-only baseline, worst mistakes."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from overlay import __version__
from overlay.config import SPLITS, Split
from overlay.dataset.prepared import PreparedDataset
from overlay.evaluation import metrics
from overlay.evaluation.report import MaskOnly, Mistake, Protocol
from overlay.images.codec import decode_image
from overlay.models import model_file

MASK_NUMBERS = {
    "mask_area_share": "share of the image",
    "mask_aspect": "height / width",
    "mask_extent": "fill of its box",
    "mask_compactness": "perimeter² / area",
}


def _protocol(loaded: model_file.ModelFile, dataset: PreparedDataset, split: str) -> Protocol:
    card, request = loaded.card, dataset.card.request
    style = request.overlay
    drawn = {"fill": f", {style.color}, opacity {style.alpha}", "contour": f", {style.color}, {style.width} px"}
    return Protocol(
        model_file=Path(loaded.path).name,
        model_sha256=loaded.sha256,
        arch=card.arch,
        image_size=card.size,
        resize=card.resize,
        dataset=dataset.place.name,
        fingerprint=dataset.card.fingerprint,
        split=split,
        split_rule=_split_rule(request.split),
        split_images={name: sum(counts[name] for counts in dataset.card.counts.values()) for name in SPLITS},
        overlay=style.style + drawn.get(style.style, ""),
        versions={"overlay": __version__} | {name: version(name) for name in ("torch", "torchvision", "ray")},
    )


def _split_rule(split: Split) -> str:
    if split.column:
        return f"as given ({split.column})"
    grouped = f", and groups ({split.group_by})," if split.group_by else ""
    folds = f" in {split.folds} folds" if split.folds else ""
    return f"at random{folds}, near-duplicates{grouped} kept together"


def _mask_only(dataset: PreparedDataset, split: str) -> MaskOnly | None:
    """Measure what the masks alone give away on this split; None for the training split, or without any mask."""
    columns = ["label", "split", *MASK_NUMBERS]
    table = pyarrow.dataset.dataset(dataset.data_files(), filesystem=dataset.filesystem).to_table(columns=columns)
    if split == "train" or table["mask_area_share"].null_count == len(table):
        return None
    numbers = np.stack([table[name].to_numpy() for name in MASK_NUMBERS], axis=1)
    labels = np.array([dataset.card.classes.index(label) for label in table["label"].to_pylist()])
    sides = table["split"].to_numpy(zero_copy_only=False)
    train, side = sides == "train", sides == split
    accuracy, macro_f1 = metrics.mask_only_scores(numbers[train], labels[train], numbers[side], labels[side])
    return MaskOnly(accuracy, macro_f1, tuple(MASK_NUMBERS.values()))


def _mistakes(dataset: PreparedDataset, table: pa.Table, worst: NDArray[np.int64]) -> tuple[Mistake, ...]:
    rows = table.take(worst).to_pylist()
    names = [row["id"] for row in rows]
    found = pyarrow.dataset.dataset(dataset.data_files(), filesystem=dataset.filesystem).to_table(
        columns=["id", "image"], filter=pc.field("id").isin(pa.array(names, pa.string()))
    )
    images = {row["id"]: row["image"]["bytes"] for row in found.to_pylist()}
    return tuple(
        Mistake(row["id"], row["true_label"], row["label"], row["confidence"], decode_image(images[row["id"]]))
        for row in rows
    )
