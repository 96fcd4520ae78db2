"""Folder of a comparison: its files, its record, and whether a command may resume it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from overlay import __version__
from overlay.config import Compare, dotted
from overlay.errors import RequestError
from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath
from overlay.version import code_fingerprint

COMPARISON_FORMAT = 1
# Options that may differ between the command that began a comparison and one that resumes it.
_MAY_DIFFER = (
    "dataset",
    "out",
    "candidates",
    "parallel",
    "train.workers",
    "train.device",
    "tracking.mode",
    "log_format",
)


@dataclass(frozen=True)
class ComparisonRequest:
    """Identity of a comparison: what is compared on which images, and how it will be judged."""

    dataset: str
    """fingerprint"""
    classes: list[str]
    candidates: dict[str, dict[str, Any]]
    """name -> fingerprint of its dataset, and the dotted options of its trainings; or the model's sha256"""
    reference: str
    metric: str
    positive: str | None
    seeds: list[int]
    folds: int | None

    def difference(self, stored: Mapping[str, Any]) -> str | None:
        """Return the first difference to the request of a compare.json, in words; None where they are equal."""
        mine, others = dotted(asdict(self)), dotted(dict(stored))
        for option in sorted(mine.keys() | others.keys()):
            if option.startswith("candidates.") and option.split(".", 2)[-1] in _MAY_DIFFER:
                continue
            if mine.get(option) != others.get(option):
                return f"{option} {others.get(option)}, not {mine.get(option)}"
        return None


@dataclass(frozen=True)
class ComparisonFolder:
    """Paths of a comparison. Nothing is written before `begin`, and the folder need not exist until then."""

    path: StoragePath

    @property
    def record_file(self) -> StoragePath:
        """Request and state of the comparison, and its findings once it is finished."""
        return self.path / "compare.json"

    def run(self, candidate: str, seed: int, fold: int) -> StoragePath:
        """Return the folder of one training's run."""
        return self.path / "runs" / candidate / f"seed-{seed}" / f"fold-{fold}"

    def log(self, candidate: str, seed: int, fold: int) -> StoragePath:
        """Return the file that takes the output of one training."""
        return self.path / "logs" / f"{candidate}-seed-{seed}-fold-{fold}.log"

    def evaluation(self, candidate: str) -> StoragePath:
        """Return the folder of a finished model's evaluation."""
        return self.path / "evaluations" / candidate

    @property
    def finished(self) -> bool:
        """Whether the comparison is complete."""
        return self.record_file.is_file() and bool(_read_record(self.record_file)["finished"])

    def begin(self, request: ComparisonRequest) -> None:
        """Write the record of a comparison that is not finished."""
        self.path.make_folder()
        self._write(request, finished=False, findings={})

    def finish(self, request: ComparisonRequest, findings: Mapping[str, Any]) -> None:
        """Write the record of a finished comparison, with its findings for programs."""
        self._write(request, finished=True, findings=findings)

    def _write(self, request: ComparisonRequest, *, finished: bool, findings: Mapping[str, Any]) -> None:
        record = {
            "format": COMPARISON_FORMAT,
            "overlay_version": __version__,
            "code": code_fingerprint(),
            "finished": finished,
            "request": asdict(request),
            **findings,
        }
        write_text_atomically(self.record_file, json.dumps(record, indent=2) + "\n")


def open_comparison(config: Compare, request: ComparisonRequest) -> ComparisonFolder:
    """Return the folder of a comparison, new or to be resumed; writes nothing.

    Raises:
        RequestError: the path is a file, or the folder holds something else, or another comparison.
    """
    folder = ComparisonFolder(StoragePath.of(config.out))
    if folder.path.is_file():
        raise RequestError(f"--out {config.out} is a file; name a folder")
    if folder.record_file.is_file():
        if difference := request.difference(_read_record(folder.record_file)["request"]):
            raise RequestError(
                f"{config.out} was begun with {difference}; give the same options to resume it, or another --out"
            )
    elif others := folder.path.contents():
        raise RequestError(f"--out {config.out} holds something else ({others[0]}); choose an empty folder")
    return folder


def _read_record(file: StoragePath) -> dict[str, Any]:
    """Read compare.json.

    Raises:
        RequestError: it is damaged, or no record of a comparison.
    """
    try:
        record: dict[str, Any] = json.loads(file.read_bytes())
        if isinstance(record["request"], dict) and isinstance(record["finished"], bool):
            return record
    except (ValueError, KeyError, TypeError):
        pass
    raise RequestError(f"{file} is damaged, or no record of a comparison; choose another --out")
