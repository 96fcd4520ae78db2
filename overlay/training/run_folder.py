"""Folder of a training run: its files, its identity, and whether a command may resume it."""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from typing import Literal

import yaml

from overlay.config import Train, dotted
from overlay.errors import RequestError
from overlay.storage.atomic import write_text_atomically
from overlay.storage.filenames import is_temporary
from overlay.storage.path import StoragePath

# Options that may differ between the command that began a run and one that resumes it: where it runs, not what it is.
_MAY_DIFFER = (
    "out",
    "dataset",
    "train.workers",
    "train.device",
    "train.checkpoint_steps",
    "train.dry_run",
    "tracking.mode",
    "log_format",
)


@dataclass(frozen=True)
class RunFacts:
    """Decisions of a run at its begin, of which some depend on the machine; they bind each command that resumes it."""

    batch_size: int
    """images in a step; the configuration may say "auto\""""
    precision: Literal["bf16", "fp16", "fp32"]
    """of the forward pass; the configuration may say "auto\""""
    order: Literal["memory", "windowed"]
    """windowed where the images did not fit into the object store: they are shuffled among `train.shuffle_window`"""
    engine: Literal["torch", "torch.compile"]
    device: Literal["cpu", "cuda"]
    """where the run began; another one may resume it, with results that differ in the last digits"""
    workers: int = 1
    """most workers that the run began with; the order of a windowed run is made for so many"""


@dataclass(frozen=True)
class RunRecord:
    """Identity and state of a run, in run.json."""

    dataset: str
    """fingerprint"""
    facts: RunFacts
    tracking_id: str
    """id in Weights & Biases, the same after every restart"""
    finished: bool


@dataclass(frozen=True)
class RunFolder:
    """Paths and record of a run. Nothing is written before `begin`, and the folder need not exist until then."""

    path: StoragePath

    @property
    def config_file(self) -> StoragePath:
        """Whole configuration of the run, as --config reads it."""
        return self.path / "config.yaml"

    @property
    def dataset(self) -> StoragePath:
        """Dataset that is prepared for this run, where it is started on a folder of images directly."""
        return self.path / "dataset"

    @property
    def checkpoints(self) -> StoragePath:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def history_file(self) -> StoragePath:
        """Training history, a row an epoch."""
        return self.path / "history.parquet"

    @property
    def curves_file(self) -> StoragePath:
        """Picture of loss and accuracy over the epochs."""
        return self.path / "curves.png"

    @property
    def evaluation(self) -> StoragePath:
        """Folder of the evaluation on the test split."""
        return self.path / "evaluation"

    @property
    def has_begun(self) -> bool:
        """Whether the run's record is there."""
        return self._record_file.is_file()

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.has_begun and self._read_record().finished

    @property
    def tracking_id(self) -> str:
        """Id of the run in Weights & Biases, the same after every restart; only of a run that has begun."""
        return self._read_record().tracking_id

    @property
    def facts(self) -> RunFacts | None:
        """Decisions of the run at its begin; None where it has not begun."""
        return self._read_record().facts if self.has_begun else None

    def begin(self, config: Train, fingerprint: str, facts: RunFacts) -> None:
        """Write a run's configuration and record; where a record exists, check that the dataset is the same.

        Raises:
            RequestError: the run was begun on another dataset.
        """
        resumed = self.has_begun
        if resumed and self._read_record().dataset != fingerprint:
            raise RequestError(
                f"{self.path} holds a run on another dataset than {config.dataset}; choose another --out"
            )
        self.path.make_folder()
        for name in self.path.children():
            if is_temporary(name):  # of a killed process
                (self.path / name).remove()
        # First of all, since a folder without it is not recognised as a run's, should this process be killed now.
        write_text_atomically(self.config_file, yaml.safe_dump(asdict(config), sort_keys=False))
        if not resumed:
            self._write_record(RunRecord(fingerprint, facts, tracking_id=secrets.token_hex(4), finished=False))
        self.checkpoints.make_folder()

    def finish(self) -> None:
        """Mark the run as complete."""
        self._write_record(replace(self._read_record(), finished=True))

    @property
    def _record_file(self) -> StoragePath:
        return self.path / "run.json"

    def _read_record(self) -> RunRecord:
        stored = json.loads(self._record_file.read_bytes())
        return RunRecord(**stored | {"facts": RunFacts(**stored["facts"])})

    def _write_record(self, record: RunRecord) -> None:
        write_text_atomically(self._record_file, json.dumps(asdict(record), indent=2) + "\n")


def open_run(config: Train) -> RunFolder:
    """Return the folder of a run, new or to be resumed; writes nothing.

    Raises:
        RequestError: the path is a file, or the folder holds something else, or a run with other options.
    """
    folder = RunFolder(StoragePath.of(config.out))
    if folder.path.is_file():
        raise RequestError(f"--out {config.out} is a file; name a folder")
    others = set(folder.path.contents()) - {folder.dataset.name}
    stored = _read_yaml(folder.config_file) if folder.config_file.is_file() else None
    if not isinstance(stored, dict) or not {"dataset", "out", "train"} <= stored.keys():
        if others:
            raise RequestError(f"--out {config.out} holds something else ({min(others)}); choose an empty folder")
        return folder
    before, now = dotted(stored), dotted(asdict(config))
    for option in sorted((before.keys() | now.keys()) - set(_MAY_DIFFER)):
        if not option.startswith("cluster.") and before.get(option) != now.get(option):
            raise RequestError(
                f"{config.out} was begun with {option} {before.get(option)}, not {now.get(option)}; "
                "give the same options to go on, or another --out"
            )
    return folder


def _read_yaml(file: StoragePath) -> object:
    try:
        return yaml.safe_load(file.read_bytes().decode())
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
