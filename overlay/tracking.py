"""Experiment tracking with Weights & Biases (W&B): one W&B run for a training, also when it is killed and resumed.

The API key stays where W&B itself keeps it (WANDB_API_KEY, or the netrc file that `wandb login` writes); no option
takes one, so none can reach a file or a log.
"""

import json
import netrc
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlparse

from overlay.config import Predict, Tracking, Train
from overlay.errors import RequestError, WorkError
from overlay.evaluation.estimates import Evaluation
from overlay.storage.path import StoragePath
from overlay.storage.transfer import local_copy
from overlay.training.history import Epoch

TrackingMode = Literal["online", "offline", "disabled"]
KEY_ELSEWHERE = "OVERLAY_KEY_ELSEWHERE"
"""environment variable of a submitted job: set where the computer that sent it has an API key; never the key itself"""


def resolve_mode(config: Tracking) -> TrackingMode:
    """Resolve ``auto`` to online where an API key is stored and to disabled where none is; without network access.

    Raises:
        RequestError: the mode is online and there is no key.
    """
    if config.mode == "auto":
        return "online" if has_key() else "disabled"
    if config.mode == "online" and not has_key():
        raise RequestError("tracking.mode is online, but there is no key; set WANDB_API_KEY or run `wandb login`")
    return config.mode


def describe_mode(config: Tracking, mode: TrackingMode) -> str:
    """Return one line for the terminal: the tracking mode and the reason for it."""
    if mode == "disabled":
        if config.mode != "auto":
            return "tracking: disabled"
        if os.environ.get(KEY_ELSEWHERE):
            return (
                "tracking: disabled, since the cluster has no key of Weights & Biases, though the computer that sent "
                "the job has one; set WANDB_API_KEY on the cluster, on Kubernetes by a secret"
            )
        return "tracking: disabled, since there is no key of Weights & Biases"
    return f"tracking: Weights & Biases, {mode}, project {config.project}"


class WandbRun:
    """W&B run of a training, from one command's start to its end; a later command with the same id resumes it.

    Rows that an earlier command logged shortly before it was killed may never have reached W&B, which buffers them in
    the memory of a process of its own. So a resumed run asks which epochs W&B has, and logs all others again.

    Raises:
        WorkError: W&B can't be reached, or refuses the key.
    """

    def __init__(self, config: Train, mode: TrackingMode, run_id: str, folder: StoragePath) -> None:
        import wandb

        own = Path() if folder.in_bucket else Path(folder.text)
        logged = _epochs_on_disk(own, run_id) if mode == "offline" else set[int]()
        try:
            self._run = wandb.init(
                project=config.tracking.project,
                entity=config.tracking.entity,
                name=config.tracking.name or folder.name,
                id=run_id,
                resume="allow",
                mode=mode,
                dir=own,
                config=asdict(config),
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    save_code=False,
                    disable_git=True,
                    x_transaction_log_flush_interval=1.0,  # else 15 seconds
                ),
            )
        except wandb.Error as error:
            reason = " ".join(str(error).split())
            raise WorkError(
                f"Weights & Biases: {reason}; mend that, or go on with --tracking.mode offline or disabled"
            ) from error
        # Online, the server returns the step at which the run resumes.
        self._logged = logged | set(range(self._run.starting_step))

    def log(self, epochs: Sequence[Epoch]) -> None:
        """Log the epochs that W&B does not have yet; W&B's step is the epoch."""
        for epoch in epochs:
            if epoch.epoch not in self._logged:
                known = {name: value for name, value in asdict(epoch).items() if value is not None}
                self._run.log(known, step=epoch.epoch, commit=True)
                self._logged.add(epoch.epoch)

    def finish(
        self, evaluation: Evaluation, labels: Sequence[int], predicted: Sequence[int], model: StoragePath
    ) -> None:
        """Log the test metrics and confusion matrix, and the model as an artifact.

        ``labels`` and ``predicted``, (n,) each, are positions in the classes.
        """
        import wandb

        chart = wandb.plot.confusion_matrix(
            y_true=labels, preds=predicted, class_names=list(evaluation.classes), title="Confusion matrix, test"
        )
        self._run.log({"test/confusion_matrix": chart})
        self._run.summary.update(
            {f"test/{name}": found.value for name, found in evaluation.overall() if found is not None}
        )
        artifact = wandb.Artifact(name=f"model-{self._run.id}", type="model")
        with local_copy(model) as file:
            # "mutable" makes a copy in the home folder, from which W&B uploads; the one of an object is gone by then.
            artifact.add_file(str(file), policy="mutable" if model.in_bucket else "immutable")
        self._run.log_artifact(artifact)

    def close(self, *, failed: bool) -> None:
        """Flush what was logged, and end this process's part in the run."""
        self._run.finish(exit_code=int(failed))


def log_prediction(config: Predict, mode: TrackingMode, folder: Path, values: Mapping[str, float]) -> None:
    """Log a finished prediction as a W&B run: its options, and ``values`` as the summary.

    Raises:
        WorkError: W&B can't be reached, or refuses the key.
    """
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with wandb.init(
            project=config.tracking.project,
            entity=config.tracking.entity,
            name=config.tracking.name or StoragePath.of(config.out).name,
            job_type="predict",
            mode=mode,
            dir=folder,
            config=asdict(config),
            settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
        ) as run:
            run.summary.update(dict(values))
    except wandb.Error as error:
        raise WorkError(
            f"the predictions are complete, but Weights & Biases said: {' '.join(str(error).split())}"
        ) from error


def _epochs_on_disk(folder: Path, run_id: str) -> set[int]:
    """Return the epochs in the files of earlier commands' offline runs, which may be incomplete at their end."""
    found = set()
    for file in folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"):
        words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        for line in subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines():
            record: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if record.get("type") == "history" and "epoch" in record["history"]["item"]:
                found.add(int(record["history"]["item"]["epoch"]))
    return found


def has_key() -> bool:
    """Whether W&B would find an API key, in the environment or in a netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    # The paths and the host that W&B itself uses (wandb.sdk.lib.wbauth.wbnetrc).
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        _, _, key = netrc.netrc(file).authenticators(host) or ("", "", "")
    except (netrc.NetrcParseError, OSError):
        return False
    return bool(key)
