import io
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from overlay.dataset.prepared import PreparedDataset, part_path
from overlay.dataset.schema import DATASET_SCHEMA
from overlay.duplicates.near_duplicates import DUPLICATES_SCHEMA
from overlay.evaluation.subject import EvaluationSubject
from overlay.models.model_file import ModelCard, ModelFile
from overlay.models.network import create_network
from overlay.storage.parquet import write_rows
from tests.overlay.dataset.test_card import CARD, REQUEST

CLASSES = ("benign", "normal")


def png(grey: int, side: int = 20, mode: str = "L") -> bytes:
    """A square picture of one grey."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side), grey).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def new_dataset(tmp_path: Path) -> Callable[..., PreparedDataset]:
    """Make a dataset from rows, which need `id`, `label`, `split` and `bytes`; the shape of a mask where `area` is, and
    the file of a mask where `mask` is."""

    def make(rows: list[Mapping[str, object]], max_pixels: int = 1000, name: str = "dataset") -> PreparedDataset:
        part = part_path(tmp_path / name, 0)
        part.parent.mkdir(parents=True)
        with write_rows(part, DATASET_SCHEMA) as written:
            for row in rows:
                shape = {f"mask_{name}": row.get("area") for name in ("area_share", "aspect", "extent", "compactness")}
                image = {"bytes": row["bytes"], "path": row["id"]}
                # Hashes of all rows differ in half of the bits, unless one is given.
                drawn = np.random.default_rng(zlib.crc32(str(row["id"]).encode())).bytes(32).hex()
                known = {name: row[name] for name in ("id", "label", "split")}
                known |= {"group": row.get("group", row["id"]), "phash": row.get("phash", drawn)}
                mask = {"bytes": row["mask"], "path": ""} if "mask" in row else None
                written.write({**known, "image": image, "mask": mask, "source": "here", **shape})
        pq.write_table(DUPLICATES_SCHEMA.empty_table(), tmp_path / name / "duplicates.parquet")
        request = replace(REQUEST, max_pixels=max_pixels)
        return PreparedDataset(str(tmp_path / name), replace(CARD, request=request))

    return make


@pytest.fixture
def small_dataset(new_dataset: Callable[..., PreparedDataset]) -> PreparedDataset:
    """Ten training images and four test images of 400 pixels; benign masks are twice as large as normal ones."""
    return new_dataset(
        [
            {
                "id": f"{split}{i}",
                "label": CLASSES[i % 2],
                "split": split,
                "bytes": png(10 * i),
                "area": 0.2 - 0.1 * (i % 2),
            }
            for split, n in (("train", 10), ("test", 4))
            for i in range(n)
        ]
    )


@pytest.fixture(scope="session")
def random_resnet() -> ModelFile:
    """A ResNet18 of random weights for images of 64 pixels."""
    torch.manual_seed(0)
    card = ModelCard("resnet18", CLASSES, 64, "squash", (0.5,) * 3, (0.5,) * 3, None, "", "", "")
    state = create_network("resnet18", len(CLASSES)).state_dict()
    return ModelFile("runs/my-run/m.pth", OrderedDict(state), card, "ab" * 32)


@pytest.fixture
def subject(small_dataset: PreparedDataset, random_resnet: ModelFile) -> EvaluationSubject:
    return EvaluationSubject(random_resnet, small_dataset, "test")
