"""The folder of a training run: what lies where, and whether a command may go on in it."""

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from overlay.config import Train, dotted
from overlay.errors import RequestError
from overlay.storage.atomic import write_atomically

# What may differ between the command that began a run and the one that goes on with it: where it runs, not what it is.
_MAY_DIFFER = (
    "out",
    "dataset",
    "train.workers",
    "train.device",
    "train.checkpoint_steps",
    "train.dry_run",
    "tracking.mode",
)


@dataclass(frozen=True)
class RunFolder:
    """A run's folder. It is written to from `begin` on; before that, it may not even exist."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The run's whole configuration, as --config reads it."""
        return self.path / "config.yaml"

    @property
    def dataset(self) -> Path:
        """Where a folder of images is prepared, when a run is started on one directly."""
        return self.path / "dataset"

    @property
    def checkpoints(self) -> Path:
        """Ray Train's checkpoints."""
        return self.path / "checkpoints"

    @property
    def history_file(self) -> Path:
        """A row an epoch."""
        return self.path / "history.parquet"

    @property
    def curves_file(self) -> Path:
        """Loss and accuracy over the epochs."""
        return self.path / "curves.png"

    @property
    def evaluation(self) -> Path:
        """The evaluation on the test split."""
        return self.path / "evaluation"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self._identity().get("finished", False) is True

    @property
    def tracking_id(self) -> str:
        """The id under which the run is tracked, the same after every restart."""
        return str(self._identity()["tracking_id"])

    @property
    def batch_size(self) -> int | None:
        """Images in a step, where the run has begun; its configuration may say "auto"."""
        return self._identity().get("batch_size")

    def begin(self, config: Train, fingerprint: str, batch_size: int) -> None:
        """Write down what the run is; where that stands there already, check that the dataset is the same.

        Raises:
            RequestError: the run was begun on another dataset.
        """
        identity = self._identity()
        if identity and identity["dataset"] != fingerprint:
            raise RequestError(
                f"{self.path} holds a run on another dataset than {config.dataset}; choose another --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        # First of all, since a folder without it is not known for a run's, should this process be killed now.
        with write_atomically(self.config_file) as temporary:
            temporary.write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
        if not identity:
            name = secrets.token_hex(4)
            self._write_identity(
                {"dataset": fingerprint, "batch_size": batch_size, "tracking_id": name, "finished": False}
            )
        self.checkpoints.mkdir(exist_ok=True)

    def finish(self) -> None:
        """Note that nothing is left to do."""
        self._write_identity({**self._identity(), "finished": True})

    def _identity(self) -> dict[str, Any]:
        file = self.path / "run.json"
        identity: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return identity

    def _write_identity(self, identity: dict[str, Any]) -> None:
        with write_atomically(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(identity, indent=2) + "\n")


def open_run(config: Train) -> RunFolder:
    """Return the folder of a run, new or begun earlier; writes nothing.

    Raises:
        RequestError: it holds something else, or a run with other options.
    """
    folder = RunFolder(Path(config.out).expanduser().absolute())
    if folder.path.is_file():
        raise RequestError(f"--out {config.out} is a file; name a folder")
    there = {entry.name for entry in folder.path.iterdir()} if folder.path.exists() else set()
    strange = {name for name in there if not _is_torn(name)} - {folder.dataset.name}
    stored = _read_yaml(folder.config_file) if folder.config_file.exists() else None
    if not isinstance(stored, dict) or not {"dataset", "out", "train"} <= stored.keys():
        if strange:
            raise RequestError(f"--out {config.out} holds something else ({min(strange)}); choose an empty folder")
        return folder
    before, now = dotted(stored), dotted(asdict(config))
    for option in sorted((before.keys() | now.keys()) - set(_MAY_DIFFER)):
        if before.get(option) != now.get(option):
            raise RequestError(
                f"{config.out} was begun with {option} {before.get(option)}, not {now.get(option)}; "
                "give the same options to go on, or another --out"
            )
    return folder


def _is_torn(name: str) -> bool:
    """Say whether a file is what `write_atomically` leaves behind in a process that is killed."""
    return name.startswith(".") and name.endswith(".tmp")


def _read_yaml(file: Path) -> object:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
