"""What a person sees of a training run while it goes on, and what stays of it: bar, rows, history, curves, W&B.

Workers only ever post to a `Board`, a tiny actor; the driver's `Tracker` reads it and does the rest. So there is one
writer of the run's files and one W&B run, however many workers there are and however often they are restarted.
"""

import math
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow.parquet as pq
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import session
from overlay import tracking
from overlay.config import Train
from overlay.errors import one_line
from overlay.evaluation import metrics
from overlay.storage.atomic import write_atomically
from overlay.training import history
from overlay.training.history import Epoch
from overlay.training.run_folder import RunFolder
from overlay.training.sampler import SamplePlan
from pipelines.runtime.placement import Placement
from pipelines.runtime.progress import progress_meter

POLL_SECONDS = 1.0
QUIET_SECONDS = 30.0
"""without news, before it is looked whether the cluster lacks something, or other jobs hold it"""


@dataclass(frozen=True)
class TrainingStatus:
    """What a board says."""

    step: int = 0
    """steps of the run that are done"""
    loss: float | None = None
    """mean loss of the epoch so far"""
    workers: int = 0
    epochs: tuple[Epoch, ...] = ()
    """the whole history, as far as a checkpoint holds it"""
    memory_bytes: int = 0
    """most that one worker needed"""
    saved: int = 0
    """step after which the run was last saved for a node that is about to go"""
    hopeless: str | None = None
    """why starting the workers again would not help"""


class StatusBoard:
    """A tiny actor where the workers post how far they are, and the driver that they should leave."""

    def __init__(self) -> None:
        self._posted = TrainingStatus()
        self._leave = False

    def post(self, step: int, loss: float | None, workers: int) -> bool:
        """Note how far the run is; return whether it is to stop."""
        self._posted = replace(self._posted, step=step, loss=loss, workers=workers)
        return self._leave

    def post_epochs(self, epochs: list[Epoch]) -> None:
        """Note the history, once a checkpoint holds it."""
        self._posted = replace(self._posted, epochs=tuple(epochs))

    def post_memory(self, peak: int) -> None:
        """Note how many bytes a worker has needed at most."""
        self._posted = replace(self._posted, memory_bytes=max(peak, self._posted.memory_bytes))

    def post_saved(self, step: int) -> None:
        """Note that all is saved for a node that is about to go."""
        self._posted = replace(self._posted, saved=step)

    def give_up(self, reason: str) -> None:
        """Note why starting the workers again would not help."""
        self._posted = replace(self._posted, hopeless=reason)

    def leave(self) -> None:
        """Have the workers save and leave at their next step."""
        self._leave = True

    def read(self) -> TrainingStatus:
        """Return all that was posted."""
        return self._posted


class TrainingMonitor:
    """Follows a run's board until the block ends; what an earlier command showed or logged is not repeated.

    ``begin`` is the step that the run goes on after.
    """

    def __init__(self, config: Train, folder: RunFolder, plan: SamplePlan, placement: Placement, begin: int) -> None:
        # On this node, which lives as long as the run; started again should it die, when it is told all anew.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here}
        self.board: ActorHandle[Any] = ray.remote(StatusBoard).options(**options).remote()  # type: ignore[assignment]
        self._config, self._folder, self._plan, self._placement = config, folder, plan, placement
        self._posted = TrainingStatus(step=begin)
        self._leaving = threading.Event()
        self._ended = threading.Event()
        self._follower = threading.Thread(target=self._follow, daemon=True)
        file = folder.history_file
        self._known = self._shown = pq.read_metadata(file).num_rows if file.exists() else 0
        self._run: tracking.WandbRun | None = None

    def __enter__(self) -> "TrainingMonitor":
        mode = tracking.resolve_mode(self._config.tracking)
        print(tracking.describe_mode(self._config.tracking, mode))
        if mode != "disabled":
            self._run = tracking.WandbRun(self._config, mode, self._folder.tracking_id, self._folder.path)
        # What kills a job politely: `ray job stop`, Kubernetes, a batch system. Ctrl-C is Ray Train's own.
        self._before = signal.signal(signal.SIGTERM, lambda *_: self._leaving.set())
        self._follower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self._ended.is_set():
            self.stop()
        if self._run is not None:
            self._run.close(failed=error is not None)

    def stop(self) -> TrainingStatus:
        """Stop following, and return what was posted last; the bar goes away, and SIGTERM ends the process again."""
        self._ended.set()
        self._follower.join()
        signal.signal(signal.SIGTERM, self._before)
        with suppress(RayError):
            posted: TrainingStatus = ray.get(self.board.read.remote(), timeout=10)  # type: ignore[assignment]
            self._posted = replace(posted, step=max(posted.step, self._posted.step))
        return self._posted

    def show(self, epochs: Sequence[Epoch]) -> None:
        """Print, log and write down the epochs that are new."""
        for epoch in epochs[self._shown :]:
            print(
                f"epoch {epoch.epoch:3d}   loss {epoch.train_loss:.4f}, val {epoch.val_loss:.4f}   accuracy "
                f"{epoch.train_accuracy:.3f}, val {epoch.val_accuracy:.3f}   val macro-F1 "
                f"{epoch.val_macro_f1:.3f}   {epoch.images_per_second:.1f} images/s",
                flush=True,
            )
        self._shown = max(self._shown, len(epochs))
        if self._run is not None:
            self._run.log(epochs)
        if len(epochs) > self._known:
            self._known = len(epochs)
            history.write_history(epochs, self._folder.history_file)
            best = history.best_epoch(epochs, self._config.early_stopping)
            with write_atomically(self._folder.curves_file) as temporary:
                temporary.write_bytes(history.history_curves(epochs, best))

    def finish(self, evaluation: metrics.Evaluation, labels: list[int], predicted: list[int], model: Path) -> None:
        """Log the test's result and the model."""
        if self._run is not None:
            self._run.finish(evaluation, labels, predicted, model)

    def _follow(self) -> None:
        """Read the board now and then; every board that can't be reached, as when its process was killed, is left.

        What can't be written or logged here is told once, and raised by the last `show`: this thread must live on,
        since it is the one that passes on that the run is to stop.
        """
        told, workers, saved = "", self._placement.most_workers, 0
        each = self._plan.samples / self._plan.steps_per_epoch
        quiet_since, started = time.monotonic(), False
        with progress_meter("training", math.ceil((self._plan.steps - self._posted.step) * each)) as meter:
            while not self._ended.wait(POLL_SECONDS):
                try:
                    if self._leaving.is_set():
                        ray.get(self.board.leave.remote())
                    posted: TrainingStatus = ray.get(self.board.read.remote())  # type: ignore[assignment]
                except RayError:
                    continue
                try:
                    self.show(posted.epochs)
                except Exception as error:
                    if str(error) != told:
                        told = str(error)
                        print(f"epochs can't be written down at the moment: {one_line(error)}", flush=True)
                if posted.workers not in (0, workers):
                    workers = posted.workers
                    print(f"workers: {workers}, of {self._placement.most_workers} at most", flush=True)
                if posted.saved > saved:
                    saved = posted.saved
                    print(f"a node is about to go: saved after step {saved}", flush=True)
                if posted.step > self._posted.step:
                    epoch = min(self._plan.epoch(posted.step) + 1, self._plan.epochs)
                    fields: dict[str, float | str] = {"epoch": f"{epoch}/{self._plan.epochs}"}
                    if posted.loss is not None:
                        fields["loss"] = posted.loss
                    meter.advance(round(posted.step * each) - round(self._posted.step * each), **fields)
                    if not started:
                        meter.start()
                        started = True
                    self._posted, quiet_since = posted, time.monotonic()
                self._posted = replace(posted, step=max(posted.step, self._posted.step))
                if time.monotonic() - quiet_since > QUIET_SECONDS:
                    quiet_since = time.monotonic()
                    queued = session.is_queued(self._placement.bundle)
                    if missing := self._placement.describe_shortage(session.resources(), queued=queued):
                        print(f"waiting: {missing}; training goes on as soon as it is there", flush=True)
