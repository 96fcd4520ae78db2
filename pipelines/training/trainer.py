"""Ray Train's part in a training run: starting the workers, and restarting them after a failure."""

from collections.abc import Callable

from ray.exceptions import RayError
from ray.train import Result, TrainingFailedError
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from cluster import session
from overlay.errors import Interrupted, WorkError
from pipelines.runtime.background import BackgroundCall
from pipelines.runtime.ray_errors import explain_ray_error
from pipelines.training.setup import RunImages, TrainingJob
from pipelines.training.worker import train_worker

RAY_FOLDER = "ray"
"""folder of Ray Train's own state, beside the checkpoints; nothing is read from there"""
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""a worker's settings of glibc, which else gives a step's large tensors back to the kernel and allocates them again,
page by page, in the next: 70,000 page faults a step of a ResNet101 at 128 pixels, and up to 8 % of its time"""
ATTEMPT_SECONDS = 60
"""Ray Train tries once a minute to start workers that the cluster has no room for"""


STOP_SECONDS = 120.0
"""longest time that a step and its checkpoint may take once a stop is requested"""


class _Trainer(TorchTrainer):
    """Ray Train's trainer without its actor for datasets: it is given none, and the process takes seconds to start."""

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        return [each for each in super()._create_default_callbacks() if not isinstance(each, DatasetsCallback)]


def run_trainer(job: TrainingJob, store: Callable[[], RunImages], request_stop: Callable[[], bool]) -> None:
    """Run the workers to the end of the training; Ray Train restarts them where one dies or a node is lost.

    They start while ``store`` decodes and stores the images for which they wait. An interruption is passed on to them
    by ``request_stop``, and raised again once they have saved and stopped; at once where it returns False, since there
    is nothing to save.

    Raises:
        WorkError: workers failed more than 10 times, or the cluster had no room for them for cluster.wait seconds.
        KeyboardInterrupt: the command was interrupted.
        Exception: what ``store`` raised; the workers end by themselves.
    """
    placement, options = job.placement, job.placement.options
    gpu = placement.device == "cuda"
    attempts = max(1, round(options.wait / ATTEMPT_SECONDS))
    workers = (placement.least_workers, placement.most_workers)
    trainer = _Trainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers if workers[0] < workers[1] else workers[0],
            use_gpu=gpu,
            resources_per_worker=placement.bundle,
            placement_strategy=options.placement.upper(),
            label_selector=options.node_labels or None,
        ),
        # NCCL refuses two workers on one GPU.
        torch_config=TorchConfig(backend="nccl" if gpu and options.gpus_per_worker >= 1 else "gloo"),
        run_config=RunConfig(
            name=RAY_FOLDER,
            storage_path=job.checkpoints.path,
            storage_filesystem=job.checkpoints.filesystem,
            worker_runtime_env={"env_vars": KEEP_FREED_MEMORY},
            failure_config=FailureConfig(max_failures=10, controller_failure_limit=attempts),
        ),
    )
    fit = BackgroundCall(trainer.fit)  # in the main thread, Ray Train would take SIGINT for itself
    try:
        images = store()  # a name of its own: what nobody refers to would be deleted
    except BaseException:
        job.board.abort.remote("the images were not decoded")
        raise
    job.give_images(images)
    try:
        interrupt = _wait(fit, request_stop)
    except TrainingFailedError as error:
        reason = placement.describe_shortage(session.resources()) or _last_line(error)
        raise WorkError(f"training stopped: {reason}; the same command goes on from the newest checkpoint") from error
    if interrupt is not None:
        raise interrupt


def _wait(fit: BackgroundCall[Result], request_stop: Callable[[], bool]) -> KeyboardInterrupt | None:
    """Wait for the end of the training; return the interruption that ended it, if one did."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            fit.wait()
            return interrupt
        except KeyboardInterrupt as error:
            if interrupt is None and not request_stop():
                raise
            interrupt = error
            if isinstance(error, Interrupted):
                error.give_time(STOP_SECONDS)


def _last_line(error: TrainingFailedError) -> str:
    """Return the first worker's error in one line."""
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    return explain_ray_error(first) if isinstance(first, RayError) else str(first).strip().splitlines()[-1]
