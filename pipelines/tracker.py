"""What a person sees of a training run while it goes on, and what stays of it: bar, rows, history, curves, W&B.

Workers only ever post to a `Board`, a tiny actor; the driver's `Tracker` reads it and does the rest. So there is one
writer of the run's files and one W&B run, however many workers there are and however often they are restarted.
"""

import math
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow.parquet as pq
import ray
from ray.actor import ActorHandle

from overlay import history, metrics, tracking
from overlay.config import Train
from overlay.history import Epoch
from overlay.plan import Plan
from overlay.run_folder import RunFolder
from overlay.storage import write_atomically
from pipelines.progress import progress

POLL_SECONDS = 0.5


class Board:
    """Where rank 0 posts how far it is."""

    def __init__(self) -> None:
        self._step = 0
        self._epochs: list[Epoch] = []

    def post_step(self, step: int) -> None:
        """Note that so many steps of the run are done."""
        self._step = step

    def post_epochs(self, epochs: list[Epoch]) -> None:
        """Note the whole history, once a checkpoint holds it."""
        self._epochs = epochs

    def read(self) -> tuple[int, list[Epoch]]:
        """Return the steps done and the history."""
        return self._step, self._epochs


class Tracker:
    """Follows a run's board until the block ends; what an earlier command showed and logged is not repeated.

    ``done`` is the number of epochs that were done before.
    """

    def __init__(self, config: Train, folder: RunFolder, plan: Plan, done: int) -> None:
        self.board: ActorHandle[Any] = ray.remote(Board).options(num_cpus=0).remote()  # type: ignore[assignment]
        self._config, self._folder, self._plan = config, folder, plan
        self._step = done * plan.steps_per_epoch
        self._ended = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        self._lock = threading.Lock()
        file = folder.history_file
        self._known = pq.read_metadata(file).num_rows if file.exists() else 0
        self._run: tracking.Run | None = None

    def __enter__(self) -> "Tracker":
        mode = tracking.resolve(self._config.tracking)
        print(tracking.describe(self._config.tracking, mode))
        if mode != "disabled":
            self._run = tracking.Run(self._config, mode, self._folder.tracking_id, self._folder.path)
        self._follower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()
        if self._run is not None:
            self._run.close(failed=error is not None)

    def stop(self) -> None:
        """Stop following; the bar goes away."""
        self._ended.set()
        self._follower.join()

    def show(self, epochs: Sequence[Epoch]) -> None:
        """Print, log and write down the epochs that are new."""
        with self._lock:
            for epoch in epochs[self._known :]:
                print(
                    f"epoch {epoch.epoch:3d}   loss {epoch.train_loss:.4f}, val {epoch.val_loss:.4f}   accuracy "
                    f"{epoch.train_accuracy:.3f}, val {epoch.val_accuracy:.3f}   val macro-F1 "
                    f"{epoch.val_macro_f1:.3f}   {epoch.images_per_second:.1f} images/s",
                    flush=True,
                )
                if self._run is not None:
                    self._run.log(epoch)
            if len(epochs) > self._known:
                history.write_history(epochs, self._folder.history_file)
                best = history.best_epoch(epochs, self._config.early_stopping)
                with write_atomically(self._folder.curves_file) as temporary:
                    temporary.write_bytes(history.curves(epochs, best))
            self._known = max(self._known, len(epochs))

    def finish(self, evaluation: metrics.Evaluation, labels: list[int], predicted: list[int], model: Path) -> None:
        """Log the test's result and the model."""
        if self._run is not None:
            self._run.finish(evaluation, labels, predicted, model)

    def _follow(self) -> None:
        each = self._plan.samples / self._plan.steps_per_epoch
        left = (self._plan.steps - self._step) * each
        with progress("training", math.ceil(left)) as meter:
            while not self._ended.wait(POLL_SECONDS):
                step, epochs = ray.get(self.board.read.remote())  # type: ignore[var-annotated]
                self.show(epochs)
                if step > self._step:
                    epoch = f"{min(step // self._plan.steps_per_epoch + 1, self._plan.epochs)}/{self._plan.epochs}"
                    meter.advance(round(step * each) - round(self._step * each), epoch=epoch)
                    self._step = step
