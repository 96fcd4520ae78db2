"""Several trainings at a time: each an ordinary run in a Ray task of its own, which is the driver of its workers."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.nodes import Resources
from overlay.config import Train
from overlay.errors import Interrupted, RequestError, WorkError, one_line, saved_if_interrupted
from overlay.storage.atomic import write_text_atomically
from overlay.storage.folder_lock import FolderLock
from overlay.storage.path import StoragePath
from overlay.training import history
from overlay.training.run_folder import RunFolder
from pipelines.runtime.placement import choose_device
from pipelines.runtime.progress import progress_meter
from pipelines.runtime.ray_errors import explain_ray_error
from pipelines.training.trainer import STOP_SECONDS

WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class PooledRun:
    """A training of the pool."""

    request: Train
    log: StoragePath
    """file that takes what the training prints"""

    @property
    def folder(self) -> RunFolder:
        """Folder of the run."""
        return RunFolder(StoragePath.of(self.request.out))


def count_slots(requests: Sequence[Train], parallel: int | str, cluster: Resources) -> int:
    """Return how many trainings to run at a time; ``auto`` is as many as the GPUs allow, and one on CPUs."""
    if parallel != "auto":
        return int(parallel)
    if any(choose_device(request.train.device, cluster) == "cpu" for request in requests):
        return 1
    return max(1, int(cluster.gpus // max(each.train.most_workers * each.cluster.gpus_per_worker for each in requests)))


def train_runs(
    runs: Sequence[PooledRun], train: Callable[[Train], None], slots: int, on_end: Callable[[int, str | None], None]
) -> None:
    """Train the runs in their order, at most ``slots`` at a time; those that are finished are left as they are.

    Args:
        runs: the trainings.
        train: the job `pipelines.train.run`, which resumes a run that was interrupted.
        slots: trainings at a time.
        on_end: called after each training with its position in ``runs`` and None, or the reason why it failed.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task = ray.remote(_train_one).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    waiting = [position for position, run in enumerate(runs) if not run.folder.finished]
    working: dict[ray.ObjectRef[str | None], int] = {}
    done = sum(run.request.train.epochs for run in runs if run.folder.finished)
    total = sum(run.request.train.epochs for run in runs)
    finished = saved_if_interrupted(
        lambda: f"{len(runs) - len(waiting) - len(working)} of {len(runs)} trainings are finished"
    )
    with finished, progress_meter("training", total, "epochs", done=done) as meter, _stopped_if_interrupted(working):
        while waiting or working:
            while waiting and len(working) < slots:
                position = waiting.pop(0)
                working[task.remote(runs[position], train)] = position
            ended, _ = ray.wait(list(working), num_returns=1, timeout=WAIT_SECONDS)
            for reference in ended:
                position = working.pop(reference)
                done += runs[position].request.train.epochs
                on_end(position, _outcome(reference))
            left = len(waiting) + len(working)
            meter.advance_to(done + sum(_count_epochs(runs[each]) for each in working.values()))
            meter.advance(0, runs=f"{len(runs) - left}/{len(runs)}")


@contextmanager
def _stopped_if_interrupted(working: Mapping["ray.ObjectRef[str | None]", int]) -> Iterator[None]:
    """Pass an interruption on to the trainings, and wait until they have saved."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if isinstance(interrupt, Interrupted):
            interrupt.give_time(STOP_SECONDS)
        if working:
            print(f"saving {len(working)} trainings, then stopping; a second signal ends at once", flush=True)
            for reference in working:
                ray.cancel(reference, recursive=False)  # a KeyboardInterrupt there, as Ctrl-C is one here
            ray.wait(list(working), num_returns=len(working), timeout=STOP_SECONDS)
        raise


def _train_one(run: PooledRun, train: Callable[[Train], None]) -> str | None:
    """Train in this process, with its output in the log; return why it failed, or None."""
    with append_output(run.log):
        try:
            # A training of the same comparison, whose command was killed a moment ago, may have some seconds to live.
            FolderLock(StoragePath.of(run.request.out), "train").wait_for_release()
            train(run.request)
        except (RequestError, WorkError) as error:
            print(error)
            return one_line(error)
    return None


@contextmanager
def append_output(file: StoragePath) -> Iterator[None]:
    """Append the output of a block to a file, to one in a bucket when the block ends."""
    file.parent.make_folder()
    if not file.in_bucket:
        with _redirected(Path(file.text)):
            yield
        return
    with tempfile.TemporaryDirectory(prefix="overlay-") as folder:
        local = Path(folder, file.name)
        local.write_bytes(file.read_bytes() if file.is_file() else b"")
        try:
            with _redirected(local):
                yield
        finally:
            write_text_atomically(file, local.read_text(encoding="utf-8"))


@contextmanager
def _redirected(file: Path) -> Iterator[None]:
    with file.open("a", encoding="utf-8", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        yield


def _outcome(reference: "ray.ObjectRef[str | None]") -> str | None:
    """Return why a training failed, or None."""
    try:
        return ray.get(reference)
    except RayError as error:
        return explain_ray_error(error)


def _count_epochs(run: PooledRun) -> int:
    """Return how many epochs a training has written down."""
    return len(history.read_history(run.folder.history_file))
