"""Classify images in bulk: a row of Parquet for each input, whatever happened to it.

    overlay predict run/Resnet_fineTuning.pth images/ --out predictions
    overlay predict run more-images/ image.png --out predictions --actors 2 --batch_size 64
    overlay predict run images.zip s3://bucket/shards --out s3://bucket/predictions

The inputs are listed first, as manifest.parquet. Tasks read, decode and draw them; a pool of actors holds the model;
the driver gathers their small rows into parts, in the manifest's order, and commits each part by a rename. Last comes
_SUCCESS.json: where it stands, every input has exactly one row.
"""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from ray.exceptions import RayError

from cluster import session
from overlay import inputs, metrics, model
from overlay.config import OverlayStyle, Predict
from overlay.errors import ImageError, WorkError
from overlay.images import decode_target, resize
from overlay.predictions import PredictionFolder, Request, schema
from overlay.reading import Read, Reader
from overlay.render import overlaid
from overlay.storage import Place, faults_end_the_work, open_parquet
from pipelines.placement import device
from pipelines.progress import progress
from pipelines.reading import read_groups
from pipelines.scoring import Columns, Engine, score


@faults_end_the_work()
def run(config: Predict) -> None:
    """Predict into ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the work failed.
    """
    loaded = model.load(config.model)
    found = inputs.collect(config.inputs, loaded.card.classes, config.limits)
    request = Request.of(config, loaded.sha256, found)
    folder = PredictionFolder(Place.of(config.out))
    if folder.check(request, config.overwrite):
        print(f"{folder.path} holds these predictions already; nothing to do")
        return
    session.connect()
    cluster = session.resources()
    engine = Engine(device(config.device, cluster), config.precision, config.batch_size, config.actors)
    reading = folder.begin(found)
    others = f"; {found.passed_over} other files passed over" if found.passed_over else ""
    print(f"{len(found.images)} images to classify{others}")

    groups = read_groups(folder.manifest, reading.units)
    rows = groups.rows.map_batches(
        read_chunk,  # type: ignore[arg-type]  # Ray's type knows nothing of fn_kwargs
        batch_size=1,
        batch_format="pyarrow",
        fn_kwargs={"manifest": folder.manifest, "card": loaded.card, "max_pixels": config.max_pixels},
        num_cpus=groups.cpus,
    )
    began = time.monotonic()
    parts = Parts(folder, list(chain.from_iterable(reading.groups)), loaded, config.part_rows)
    try:
        with progress("classifying", len(found.images)) as meter:
            for block in score(rows, loaded, engine, cluster).iter_batches(batch_size=None):
                assert isinstance(block, dict)  # NumPy columns, as the default format is
                parts.add(block)
                meter.advance(len(block["row"]), errors=str(parts.errors.total()))
    except RayError as error:
        raise WorkError(f"prediction stopped: {str(error).strip().splitlines()[-1]}") from error
    folder.commit(request, parts.summary(time.monotonic() - began))
    parts.print_summary()


def read_chunk(chunk: pa.Table, manifest: Place, card: model.ModelCard, max_pixels: int) -> Columns:
    """Read, decode, draw and resize the images of one row group of the manifest; runs in a worker."""
    (group,) = chunk.to_pylist()
    file = open_parquet(manifest)
    images = file.read_row_group(group["group"]).to_pylist()
    first = sum(file.metadata.row_group(before).num_rows for before in range(group["group"]))
    pixels = np.zeros((len(images), card.size, card.size, 3), np.uint8)
    reasons = [image["reason"] or "" for image in images]
    bytes_read = np.zeros(len(images), np.int64)
    style = card.overlay or OverlayStyle(style="none")
    target = decode_target(card.size, card.resize)
    with Reader() as reader:
        for position, (image, contents) in enumerate(zip(images, group["contents"] or repeat(None), strict=False)):
            read = Counted(reader.of(image, contents))
            try:
                if not reasons[position]:
                    name = image["member"] or image["uri"]
                    drawn = overlaid(name, image["masks"], style, max_pixels, target, read)
                    pixels[position] = resize(drawn, card.size, card.resize)
            except ImageError as error:
                reasons[position] = str(error)
            bytes_read[position] = read.bytes
    rows = np.arange(first, first + len(images))
    return {"row": rows, "pixels": pixels, "reason": np.array(reasons), "bytes": bytes_read}


class Counted:
    """A function that reads, and counts what it read."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.bytes = 0

    def __call__(self, name: str) -> bytes:
        """Read a file or a member."""
        data = self._read(name)
        self.bytes += len(data)
        return data


class Parts:
    """Gathers rows, in whatever order they come, and commits a part of the output once all its rows are there."""

    def __init__(
        self, folder: PredictionFolder, images: Sequence[inputs.Input], loaded: model.ModelFile, part_rows: int
    ) -> None:
        self._folder, self._images, self._loaded, self._part_rows = folder, images, loaded, part_rows
        self._classes = loaded.card.classes
        self._waiting: dict[int, list[dict[str, Any]]] = {}
        self._confusion = np.zeros((len(self._classes), len(self._classes)), np.int64)
        self._predicted: Counter[str] = Counter()
        self._bytes = 0
        self._done = 0
        self.errors: Counter[str] = Counter()
        """reasons, without what follows their colon"""

    def add(self, block: dict[str, NDArray[Any]]) -> None:
        """Take the rows of one batch."""
        columns = zip(block["row"].tolist(), block["reason"].tolist(), block["probabilities"], strict=True)
        for row, reason, probabilities in columns:
            part = self._waiting.setdefault(row // self._part_rows, [])
            part.append({"row": row} | self._prediction(self._images[row], reason, probabilities))
            whole = min(self._part_rows, len(self._images) - row // self._part_rows * self._part_rows)
            if len(part) == whole:
                self._commit(row // self._part_rows)
        self._bytes += int(block["bytes"].sum())
        self._done += len(block["row"])

    def summary(self, seconds: float) -> dict[str, tuple[float, str]]:
        """Return the rows of metrics.parquet: name -> value and unit."""
        values: dict[str, tuple[float, str]] = {
            "images": (self._done, "images"),
            "errors": (self.errors.total(), "images"),
            "seconds": (seconds, "s"),
            "images_per_second": (self._done / seconds, "images/s"),
            "bytes_read": (self._bytes, "bytes"),
        }
        values |= {f"predicted_{name}": (self._predicted[name], "images") for name in self._classes}
        if self._confusion.any():
            values["labelled"] = (int(self._confusion.sum()), "images")
            values["accuracy"] = (metrics.accuracy(self._confusion), "1")
            values["macro_f1"] = (metrics.macro_f1(self._confusion), "1")
        return values

    def print_summary(self) -> None:
        """Say what was found, and where it lies."""
        counts = ", ".join(f"{self._predicted[name]} {name}" for name in self._classes)
        print(f"{self._done} images: {counts}, {self.errors.total()} errors")
        for reason, count in self.errors.most_common():
            print(f"  {count} {reason}")
        if self._confusion.any():
            labelled, accuracy = int(self._confusion.sum()), metrics.accuracy(self._confusion)
            print(f"accuracy {accuracy:.3f} on the {labelled} images whose folder names a class")
        print(f"predictions: {self._folder.path}")

    def _prediction(self, image: inputs.Input, reason: str, probabilities: NDArray[np.float32]) -> dict[str, Any]:
        row: dict[str, Any] = {"id": image.id, "uri": image.uri, "member": image.member, "model": self._loaded.sha256}
        if reason:
            self.errors[reason.split(":")[0]] += 1
            return row | {"status": "error", "error": reason}
        best = int(probabilities.argmax())
        self._predicted[self._classes[best]] += 1
        if image.true_label is not None:
            self._confusion[self._classes.index(image.true_label), best] += 1
        each = {f"prob_{name}": float(p) for name, p in zip(self._classes, probabilities, strict=True)}
        return row | {"status": "ok", "label": self._classes[best], "confidence": float(probabilities[best])} | each

    def _commit(self, part: int) -> None:
        rows = sorted(self._waiting.pop(part), key=lambda row: row["row"])
        self._folder.write_part(part, pa.Table.from_pylist(rows, schema=schema(self._classes)))
