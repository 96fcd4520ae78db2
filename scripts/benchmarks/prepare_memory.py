"""Benchmark of the memory that the driver of `overlay prepare` holds, phase by phase, in bytes an image.

    uv run python scripts/benchmarks/prepare_memory.py --images 20000 200000 --source folder tar

Each measurement is a process of its own. It prepares tiny images, and prints for each phase the peak of its resident
memory (VmHWM, which the kernel resets where a phase begins); last, the difference of the two sizes in bytes an image.
By default the tasks are left out: their staged files are written by another process, with random hashes of which every
fifth is near another, and no Ray is started. With ``--tasks`` everything is done as by the command itself.
"""

import argparse
import functools
import io
import json
import multiprocessing
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from overlay.config import Prepare, Split
from overlay.duplicates.near_duplicates import search_pairs
from overlay.duplicates.pairs import Pairs
from overlay.preparation.stage_part import StagedPart
from overlay.preparation.staging import STAGED_SCHEMA, staged_path
from overlay.sources.manifest import Manifest
from overlay.sources.read_plan import ReadUnit
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath
from scripts.benchmarks.record import append_record, current_record

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_CLASSES = ("benign", "malignant", "normal")
_DRIVER = {
    "overlay.preparation.listing": ("list_labelled", "write_manifest"),
    "pipelines.prepare": (
        "list_sources",
        "publish_file",
        "_stage",
        "read_staged",
        "search_in_tasks",
        "describe_pairs",
        "draw_duplicates",
        "resolve_conflicts",
        "split_dataset",
        "draw_classes",
        "write_index",
        "read_stored_form",
        "fingerprint",
        "count_masks",
        "print_summary",
    ),
}
"""module -> functions whose peak is measured; a function's peak is without those that it calls, if these are listed"""


def main() -> None:
    """Measure each source at each size, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--source", nargs="+", default=["folder", "tar"], choices=["folder", "tar"])
    parser.add_argument("--tasks", action="store_true", help="run the tasks, on Ray")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measure(Path(options.measure), options.tasks)))
        return
    for kind in options.source:
        peaks = [_in_process(kind, images, options.tasks) for images in options.images]
        _print_table(kind, options.images, peaks)


def _in_process(kind: str, images: int, tasks: bool) -> dict[str, int]:
    """Return phase -> peak in bytes, of a process that prepares so many images."""
    with tempfile.TemporaryDirectory(prefix="overlay-memory-") as folder:
        source = write_source(Path(folder), kind, images)
        words = [sys.executable, "-m", "scripts.benchmarks.prepare_memory", "--measure", str(source)]
        done = subprocess.run([*words, *(["--tasks"] if tasks else [])], check=True, stdout=subprocess.PIPE, text=True)
    peaks: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def write_source(folder: Path, kind: str, images: int) -> Path:
    """Write tiny PNGs of three classes, all different, as class folders or as a tar of them; return its path."""
    names = (f"{_CLASSES[number % 3]}/{_CLASSES[number % 3]} ({number // 3}).png" for number in range(images))
    if kind == "folder":
        for label in _CLASSES:
            (folder / "images" / label).mkdir(parents=True)
        for number, name in enumerate(names):
            (folder / "images" / name).write_bytes(_png(number))
        return folder / "images"
    with tarfile.open(folder / "images.tar", "w") as archive:
        for number, name in enumerate(names):
            png, member = _png(number), tarfile.TarInfo(name)
            member.size = len(png)
            archive.addfile(member, io.BytesIO(png))
    return folder / "images.tar"


def _measure(source: Path, tasks: bool) -> dict[str, int]:
    """Prepare in this process, and return phase -> peak of its resident memory in bytes."""
    from pipelines import prepare

    peaks = _Peaks()
    with ExitStack() as stack, tempfile.TemporaryDirectory() as out:
        if not tasks:
            for name, fake in _fakes().items():
                stack.enter_context(mock.patch(f"pipelines.prepare.{name}", fake))
        for module, functions in _DRIVER.items():
            for name in functions:
                wrapped = peaks.watch(getattr(sys.modules[module], name), name)
                stack.enter_context(mock.patch(f"{module}.{name}", wrapped))
        stack.enter_context(mock.patch("sys.stdout", sys.stderr))
        peaks.begin("start")
        prepare.run(Prepare(sources=[str(source)], out=f"{out}/dataset", split=Split(seed=1)))
        peaks.begin("end")
        peaks.begin("")
    return peaks.bytes


class _Peaks:
    """Peak of this process's resident memory in each phase."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._phase = ""

    def begin(self, phase: str) -> None:
        """End the phase so far, and begin another."""
        if self._phase:
            self.bytes[self._phase] = max(self.bytes.get(self._phase, 0), _status("VmHWM"))
        self._phase = phase
        Path("/proc/self/clear_refs").write_text("5")

    def watch(self, function: Callable[_Arguments, _Result], name: str) -> Callable[_Arguments, _Result]:
        """Return the function as a phase of its own."""

        @functools.wraps(function)
        def watched(*words: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
            before = self._phase
            self.begin(name)
            try:
                return function(*words, **named)
            finally:
                self.begin(before)

        return watched


def _status(name: str) -> int:
    """Return a size of this process in bytes, from the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def _fakes() -> dict[str, Callable[..., object]]:
    """Return what stands in place of the functions of `pipelines.prepare` that need Ray."""

    def stage(manifest: Manifest, units: Sequence[ReadUnit], staged: StoragePath, *_: object) -> Iterator[StagedPart]:
        words = [sys.executable, "-c", "from scripts.benchmarks.prepare_memory import *; write_staged()"]
        given = {"manifest": str(manifest.place), "starts": manifest.starts.tolist(), "staged": str(staged)}
        subprocess.run(words, input=json.dumps(given), text=True, check=True)
        yield from (StagedPart(group, len(manifest.rows_of_group(group))) for unit in units for group in unit.groups)

    def assemble(_: object, calls: Iterable[object]) -> Iterator[tuple[int, int]]:
        yield from ((0, 0) for _ in calls)

    def search(phash: pa.ChunkedArray, distance: int) -> Pairs:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(search_pairs, (phash, distance))

    def nothing(*_: object, **__: object) -> None:
        return None

    return {
        "session.connect": nothing,
        "await_tasks": nothing,
        "check_shared_disk": nothing,
        "stage_groups": stage,
        "search_in_tasks": search,
        "run_in_parallel": assemble,
        "ThroughputMeter": mock.MagicMock(**{"return_value.update": nothing}),
        "open_dataset": mock.MagicMock(),
        "print_summary": nothing,
    }


def write_staged() -> None:
    """Write the staged files of a manifest, both named by a JSON object on the standard input, with the groups."""
    given = json.load(sys.stdin)
    manifest = Manifest(StoragePath(given["manifest"]), None, np.array(given["starts"]))
    random = np.random.default_rng(0)
    stored = STAGED_SCHEMA.field("image").type
    for group, refs in enumerate(manifest.iterate_groups(["id", "uri", "label"])):
        rows = len(refs)
        hashes = random.integers(0, 256, (rows, 32), np.uint8)
        near = np.flatnonzero(random.random(rows) < 0.2)
        hashes[near] = hashes[near - 1] ^ 1  # within 32 bits of the image before it
        columns = {"id": refs["id"], "uri": refs["uri"], "label": refs["label"]}
        columns["image"] = pa.array([{"bytes": _png(0), "path": ""}], stored).take(pa.array([0] * rows))
        columns["phash"] = pa.array([row.tobytes().hex() for row in hashes])
        columns |= {name: pa.array([random.bytes(32).hex() for _ in range(rows)]) for name in ("sha256", "pixels")}
        table = pa.table(columns)
        for name in STAGED_SCHEMA.names:
            if name not in columns:
                table = table.append_column(STAGED_SCHEMA.field(name), pa.nulls(rows, STAGED_SCHEMA.field(name).type))
        with write_atomically(staged_path(StoragePath(given["staged"]), group)) as temporary:
            pq.write_table(table.select(STAGED_SCHEMA.names), temporary)


def _png(number: int) -> bytes:
    """Return a PNG of 8 x 8 random pixels; each number has its own."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _print_table(kind: str, images: Sequence[int], peaks: Sequence[dict[str, int]]) -> None:
    sizes = " | ".join(f"{number:,} images, MiB" for number in images)
    print(f"\n| {kind}: phase | {sizes} | bytes an image |\n| --- |{' --- |' * (len(images) + 1)}")
    rows = {phase: [each.get(phase, 0) for each in peaks] for phase in peaks[0]}
    rows["**peak of all**"] = [max(each.values()) for each in peaks]
    for phase, found in rows.items():
        apart = (found[-1] - found[0]) / max(1, images[-1] - images[0])
        print(f"| {phase} | {' | '.join(f'{each / 2**20:.0f}' for each in found)} | {apart:.0f} |")
    last = rows["**peak of all**"]
    numbers = {f"{kind}, {number} images, peak MiB": found / 2**20 for number, found in zip(images, last, strict=True)}
    if len(images) > 1:
        numbers[f"{kind}, bytes an image"] = (last[-1] - last[0]) / (images[-1] - images[0])
    append_record("prepare_memory", current_record(numbers))


if __name__ == "__main__":
    main()
