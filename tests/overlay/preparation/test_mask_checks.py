from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from overlay.images.masks import measure_mask
from overlay.preparation.mask_checks import MaskCounts, count_masks, describe_masks
from overlay.preparation.staging import STAGED_SCHEMA, staged_path
from overlay.storage.parquet import write_rows
from overlay.storage.path import StoragePath


def staged_row(id: str, label: str, mask: NDArray[np.bool_] | None) -> dict[str, object]:
    row: dict[str, object] = {"id": id, "label": label, "image": {"bytes": b"", "path": id}}
    if mask is not None:
        row["mask"] = {"bytes": b"", "path": f"{id}.mask.png"}
        if numbers := measure_mask(mask):
            row |= {"mask_area_share": numbers.area_share, "mask_extent": numbers.extent}
    return row


def test_odd_masks_are_counted_a_class(tmp_path: Path) -> None:
    lesion = np.zeros((40, 50), bool)
    lesion[10:20, 10:25] = True
    large, empty, across = np.zeros_like(lesion), np.zeros_like(lesion), np.zeros_like(lesion)
    large[:, :49] = True
    across[:20, :5] = across[15:20] = True  # its box is the whole width, as an inverted mask's would be, but not all
    rows: list[tuple[str, NDArray[np.bool_] | None]] = [
        ("benign", each) for each in (lesion, across, ~lesion, large, ~empty, empty)
    ]
    rows += [("normal", empty), ("normal", empty), ("normal", None), ("malignant", lesion)]
    staged = StoragePath.of(tmp_path)
    for part, some in enumerate((rows[:4], rows[4:])):
        with write_rows(staged_path(staged, part), STAGED_SCHEMA) as file:
            for number, (label, mask) in enumerate(some):
                file.write(staged_row(f"{part}-{number}", label, mask))
            file.write({"id": f"{part}-broken", "label": "benign", "image": None, "reason": "damaged"})
    counts = count_masks(staged, 2)
    assert counts == {
        "benign": MaskCounts(6, empty=1, inverted=1, over_90_percent=3),
        "malignant": MaskCounts(1),
        "normal": MaskCounts(2),
    }
    assert describe_masks({label: asdict(each) for label, each in counts.items()}) == [
        "CHECK THE MASKS of benign: of 6, 1 have no lesion, where others of the class have one; 1 look inverted; "
        "3 cover more than 90 % of the image"
    ]
