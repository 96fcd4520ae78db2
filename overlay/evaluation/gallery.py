"""Gallery of mistakes: what the model saw, its Grad-CAM, and near-duplicates that carry another label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.rows import open_tables
from overlay.evaluation.grad_cam import draw_heat, enlarge_map, grad_cam, share_inside
from overlay.images.codec import decode_image
from overlay.images.masks import decode_mask
from overlay.images.resize import decode_target, resize_image
from overlay.models.model_file import ModelCard, ModelFile, build_network
from overlay.models.network import normalise


@dataclass(frozen=True)
class MistakePair:
    """A misclassified image as the model saw it, with the evidence for its answer."""

    id: str
    label: str
    predicted: str
    confidence: float
    seen: NDArray[np.uint8]
    """(size, size, 3), the model's input"""
    heat: NDArray[np.uint8] | None
    """(size, size, 3), Grad-CAM for the predicted class; None for a network without feature maps"""
    inside: float | None
    """share of the positive map inside the mask; None without a mask or a map"""
    conflict: str | None
    """other label of a near-duplicate"""


def read_gallery(
    model: ModelFile, dataset: PreparedDataset, predictions: pa.Table, rows: NDArray[np.int64]
) -> tuple[MistakePair, ...]:
    """Read the images of misclassified rows of a table of predictions, in the order of ``rows``, with Grad-CAM."""
    wrong = predictions.take(rows).to_pylist()
    if not wrong:
        return ()
    card, ids = model.card, [row["id"] for row in wrong]
    stored = _read_stored(dataset, ids)
    max_pixels, conflicts = dataset.card.request.max_pixels, read_label_conflicts(dataset, ids)
    seen = [_decode_input(stored[name][0], card, max_pixels) for name in ids]
    masks = [_mask_of_input(stored[name][1], card, max_pixels) for name in ids]
    evidence = _evidence(model, np.stack(seen), [card.classes.index(row["label"]) for row in wrong])
    pairs = []
    for position, row in enumerate(wrong):
        wide = None if evidence is None else enlarge_map(evidence[position], card.size)
        mask = masks[position]
        pairs.append(
            MistakePair(
                id=row["id"],
                label=row["true_label"],
                predicted=row["label"],
                confidence=row["confidence"],
                seen=seen[position],
                heat=None if wide is None else draw_heat(seen[position], wide, mask),
                inside=None if wide is None or mask is None else share_inside(wide, mask),
                conflict=conflicts.get(row["id"]),
            )
        )
    return tuple(pairs)


def read_label_conflicts(dataset: PreparedDataset, ids: Sequence[str]) -> Mapping[str, str]:
    """Return id -> label of a near-duplicate with another label, the nearest one, for those images that have one."""
    file = dataset.place / "duplicates.parquet"
    wanted = pa.array(ids, pa.string())
    pairs = pq.read_table(file.path, filesystem=file.filesystem).filter(pc.field("label_a") != pc.field("label_b"))
    pairs = pairs.filter(pc.field("id_a").isin(wanted) | pc.field("id_b").isin(wanted))
    found: dict[str, str] = {}
    for pair in pairs.sort_by("distance").to_pylist():
        found.setdefault(pair["id_a"], pair["label_b"])
        found.setdefault(pair["id_b"], pair["label_a"])
    return {name: label for name, label in found.items() if name in set(ids)}


def _read_stored(dataset: PreparedDataset, ids: Sequence[str]) -> dict[str, tuple[bytes, bytes | None]]:
    """Image file and mask file of some images by their ids."""
    wanted = pc.field("id").isin(pa.array(ids, pa.string()))
    rows = open_tables(dataset).to_table(columns=["id", "image", "mask"], filter=wanted).to_pylist()
    return {row["id"]: (row["image"]["bytes"], (row["mask"] or {}).get("bytes")) for row in rows}


def _decode_input(data: bytes, card: ModelCard, max_pixels: int) -> NDArray[np.uint8]:
    image = decode_image(data, max_pixels=max_pixels, target=decode_target(card.size, card.resize))
    return resize_image(image, card.size, card.resize)


def _mask_of_input(data: bytes | None, card: ModelCard, max_pixels: int) -> NDArray[np.float64] | None:
    """Mask in the geometry of the model's input, 0 to 1; None without a lesion."""
    if data is None or not (mask := decode_mask(data, max_pixels=max_pixels)).any():
        return None
    white = np.repeat(255 * mask[..., None].astype(np.uint8), 3, axis=2)
    return resize_image(white, card.size, card.resize)[..., 0] / 255


def _evidence(model: ModelFile, pixels: NDArray[np.uint8], predicted: Sequence[int]) -> list[Tensor] | None:
    """Grad-CAM map of each image, one image at a time: a batch would hold the activations of all of them."""
    card, network = model.card, build_network(model)
    images = normalise(torch.from_numpy(pixels), torch.tensor(card.mean), torch.tensor(card.std))
    maps = []
    for image, index in zip(images, predicted, strict=True):
        found = grad_cam(network, image[None], torch.tensor([index]))
        if found is None:
            return None
        maps.append(found[0])
    return maps
