import numpy as np
import pyarrow as pa
import pytest

from overlay.config import MAX_PIXELS, Input, OverlayStyle
from overlay.errors import WorkError
from overlay.evaluation.audit_rows import decode_viewed
from overlay.evaluation.audit_views import AuditPlan
from overlay.images.codec import encode_png
from overlay.images.masks import draw_mask

STYLE = OverlayStyle()
IMAGE, MASK = np.full((40, 40, 3), 100, np.uint8), np.ones((40, 40), bool)
PLAN = AuditPlan(frozenset({"a", "c"}), ("untinted", "mask", "blanked"), STYLE, MAX_PIXELS)


def rows(mask: bytes | None) -> pa.Table:
    stored = {"bytes": encode_png(draw_mask(IMAGE, MASK, STYLE)), "path": ""}
    masks = [None if mask is None else {"bytes": mask, "path": ""}, None, None]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"id": ["a", "bb", "c"], "image": [stored] * 3, "label": ["x", "y", "x"]}
    return pa.table({**columns, "mask": pa.array(masks, struct)})


def test_each_image_is_followed_by_the_views_of_the_plan() -> None:
    batch = decode_viewed(rows(encode_png(MASK)), Input(size=32), PLAN)
    assert batch["id"].tolist() == ["a", "bb", "c", "a", "a", "a", "c", "c", "c"]
    assert batch["view"].tolist() == ["stored"] * 3 + ["untinted", "mask", "blanked"] * 2
    first = [picture[0, 0].tolist() for picture in batch["pixels"]]
    # 0.65 of 100 or of 128, and 0.35 of (255, 59, 48).
    drawn, on_grey = [154, 86, 82], [172, 104, 100]
    assert first[:3] == [drawn] * 3
    assert np.abs(np.array(first[3]) - 100).max() <= 1
    assert first[4:6] == [on_grey] * 2
    # An image without a mask is its own view.
    assert first[6:] == [drawn, [128] * 3, drawn]
    assert batch["reason"].tolist() == [""] * 9


def test_a_damaged_mask_is_named() -> None:
    with pytest.raises(WorkError, match="the dataset's mask of a can't be decoded"):
        decode_viewed(rows(b"x"), Input(size=32), PLAN)
