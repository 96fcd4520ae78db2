"""Monitoring of a training run by the driver: progress bar, epoch lines, history.parquet, curves.png, W&B.

Workers only post to the `StatusBoard`, a small actor; the driver's `TrainingMonitor` polls it and does the rest. So
there is one writer of the run's files and one W&B run, however many workers there are and however often they restart.
"""

import math
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import session
from cluster.pending import describe_pending
from overlay import tracking
from overlay.errors import one_line
from overlay.evaluation import figures
from overlay.evaluation.estimates import Evaluation
from overlay.storage.atomic import write_atomically
from overlay.storage.disk_space import is_disk_full
from overlay.storage.path import StoragePath
from overlay.training import history
from overlay.training.history import Epoch
from overlay.training.run_folder import RunFolder
from overlay.training.sampler import SamplePlan
from pipelines.runtime.progress import ProgressMeter, progress_meter
from pipelines.runtime.silence import QUIET_SECONDS
from pipelines.training.setup import TrainingSetup
from pipelines.training.status_board import IMAGES_GROUP, StatusBoard, TrainingStatus

POLL_SECONDS = 1.0


def draw_history_curves(epochs: Sequence[Epoch], best: int) -> bytes:
    """Draw loss and accuracy over the epochs, the picture curves.png; ``best`` is the position of the best epoch."""
    return figures.draw_curves(history.history_table(epochs).to_pydict(), best_epoch=epochs[best].epoch)


class TrainingMonitor:
    """Context in which a thread polls a run's status board and reports; what an earlier command reported is skipped.

    ``begin`` is the number of steps that are done when the run is started or resumed.
    """

    def __init__(self, setup: TrainingSetup, folder: RunFolder, plan: SamplePlan, begin: int) -> None:
        self.board = _start_board()
        self._config, self._placement = setup.config, setup.placement
        self._folder, self._plan = folder, plan
        self._begin = begin
        self._status = TrainingStatus(step=begin)
        self._images_per_step = plan.samples / plan.steps_per_epoch
        self._stop_requested = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._written = self._printed = len(history.read_history(folder.history_file))
        self._reported_error, self._reported_workers, self._reported_save = "", setup.placement.most_workers, 0
        self._run: tracking.WandbRun | None = None

    def __enter__(self) -> "TrainingMonitor":
        mode = tracking.resolve_mode(self._config.tracking)
        print(tracking.describe_mode(self._config.tracking, mode))
        if mode != "disabled":
            self._run = tracking.WandbRun(self._config, mode, self._folder.tracking_id, self._folder.path)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if not self._ended.is_set():
            self.stop()
        if self._run is not None:
            self._run.close(failed=error is not None)

    def stop(self) -> TrainingStatus:
        """Stop polling, and return the last status."""
        self._ended.set()
        self._thread.join()
        with suppress(RayError):
            status: TrainingStatus = ray.get(self.board.read.remote(), timeout=10)  # type: ignore[assignment]
            self._status = replace(status, step=max(status.step, self._status.step))
        return self._status

    def request_stop(self) -> bool:
        """Ask the workers to save and stop; return whether one has taken a step, so that there is something to save."""
        step = self._status.step
        with suppress(RayError):  # that is as old as the last poll, in which a GPU takes many steps
            status: TrainingStatus = ray.get(self.board.read.remote(), timeout=POLL_SECONDS)  # type: ignore[assignment]
            step = max(step, status.step)
        if step <= self._begin:
            return False
        self._stop_requested.set()
        self.board.request_stop.remote()
        print("saving after this step, then stopping; a second signal ends at once", flush=True)
        return True

    def report_epochs(self, epochs: Sequence[Epoch]) -> None:
        """Print, log and write the epochs that are new.

        Raises:
            OSError: history.parquet or curves.png could not be written.
        """
        for epoch in epochs[self._printed :]:
            waited = "" if epoch.device_wait_share is None else f", the device waited {epoch.device_wait_share:.0%}"
            print(
                f"epoch {epoch.epoch:3d}   loss {epoch.train_loss:.4f}, val {epoch.val_loss:.4f}   accuracy "
                f"{epoch.train_accuracy:.3f}, val {epoch.val_accuracy:.3f}   val macro-F1 "
                f"{epoch.val_macro_f1:.3f}   {epoch.images_per_second:.1f} images/s{waited}",
                flush=True,
            )
        self._printed = max(self._printed, len(epochs))
        if self._run is not None:
            self._run.log(epochs)
        if len(epochs) > self._written:
            self._written = len(epochs)
            history.write_history(epochs, self._folder.history_file)
            best = history.best_epoch(epochs, self._config.early_stopping)
            with write_atomically(self._folder.curves_file) as temporary:
                temporary.write_bytes(draw_history_curves(epochs, best))

    def finish(self, evaluation: Evaluation, labels: list[int], predicted: list[int], model: StoragePath) -> None:
        """Log the test metrics and the model to W&B."""
        if self._run is not None:
            self._run.finish(evaluation, labels, predicted, model)

    def _follow(self) -> None:
        """Poll the board and report until `stop`, with a progress bar."""
        quiet_since, started, expected = time.monotonic(), False, False
        remaining = math.ceil((self._plan.steps - self._status.step) * self._images_per_step)
        with progress_meter("training", remaining, watched=False) as meter:
            while not self._ended.wait(POLL_SECONDS):
                status = self._poll()
                if status is None:
                    continue
                self._report_changes(status)
                if status.step > self._status.step:
                    self._advance(meter, status)
                    if not started:
                        meter.start()
                        started = True
                    quiet_since = time.monotonic()
                self._status = replace(status, step=max(status.step, self._status.step))
                if status.images_given and not expected:
                    quiet_since, expected = time.monotonic(), True
                if expected and time.monotonic() - quiet_since > QUIET_SECONDS:
                    quiet_since = time.monotonic()
                    self._report_shortage()

    def _poll(self) -> TrainingStatus | None:
        """Pass on a stop request and read the board; None where it can't be reached, as while Ray restarts it."""
        try:
            if self._stop_requested.is_set():
                ray.get(self.board.request_stop.remote())
            status: TrainingStatus = ray.get(self.board.read.remote())  # type: ignore[assignment]
        except RayError:
            return None
        return status

    def _report_changes(self, status: TrainingStatus) -> None:
        """Report new epochs, another number of workers, and a checkpoint for a preemption.

        An error in writing or logging is printed once, and raised by the last `report_epochs`: this thread must live
        on, since it passes on the request to stop.
        """
        try:
            self.report_epochs(status.epochs)
        except Exception as error:
            if is_disk_full(error):
                self.board.abort.remote(one_line(error))
            elif str(error) != self._reported_error:
                self._reported_error = str(error)
                print(f"epochs can't be written down at the moment: {one_line(error)}", flush=True)
        if status.workers not in (0, self._reported_workers):
            self._reported_workers = status.workers
            print(f"workers: {status.workers}, of {self._placement.most_workers} at most", flush=True)
        if status.saved_step > self._reported_save:
            self._reported_save = status.saved_step
            print(f"a node is about to go: saved after step {status.saved_step}", flush=True)

    def _advance(self, meter: ProgressMeter, status: TrainingStatus) -> None:
        """Advance the progress bar by the images of the new steps."""
        epoch = min(self._plan.epoch(status.step) + 1, self._plan.epochs)
        fields: dict[str, float | str] = {"epoch": f"{epoch}/{self._plan.epochs}"}
        if status.loss is not None:
            fields["loss"] = status.loss
        done, before = (round(step * self._images_per_step) for step in (status.step, self._status.step))
        meter.advance(done - before, **fields)

    def _report_shortage(self) -> None:
        """Print which resources the run waits for, or what else is pending on the cluster."""
        queued = session.is_queued(self._placement.bundle)
        if shortage := self._placement.describe_shortage(session.resources(), queued=queued):
            print(f"waiting: {shortage}; training goes on as soon as it is there", flush=True)
        else:
            print(f"no step for {QUIET_SECONDS:.0f} s; {describe_pending()}", file=sys.stderr, flush=True)


def _start_board() -> ActorHandle[Any]:
    """Start a board on the driver's node, which lives as long as the run; Ray restarts it, empty, should it die."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "max_restarts": -1, "scheduling_strategy": here, "concurrency_groups": {IMAGES_GROUP: 1}}
    board: ActorHandle[Any] = ray.remote(**options)(StatusBoard).remote()  # type: ignore[call-overload]
    return board
