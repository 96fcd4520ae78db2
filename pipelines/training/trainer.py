"""Ray Train's part in a training run: starting the workers, and restarting them after a failure."""

from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from cluster import session
from overlay.errors import WorkError
from pipelines.training.setup import TrainingJob
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


def run_trainer(job: TrainingJob) -> None:
    """Run the workers to the end of the training; Ray Train restarts them where one dies or a node is lost.

    Raises:
        WorkError: workers failed more than 10 times, or the cluster had no room for them for cluster.wait seconds.
    """
    placement, options = job.placement, job.placement.options
    gpu = placement.device == "cuda"
    attempts = max(1, round(options.wait / ATTEMPT_SECONDS))
    workers = (placement.least_workers, placement.most_workers)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(  # type: ignore[call-arg]  # as V2 has it
            num_workers=workers if workers[0] < workers[1] else workers[0],  # type: ignore[arg-type]
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
            failure_config=FailureConfig(max_failures=10, controller_failure_limit=attempts),  # type: ignore[call-arg]
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        reason = placement.describe_shortage(session.resources()) or _last_line(error)
        raise WorkError(f"training stopped: {reason}; the same command goes on from the newest checkpoint") from error


def _last_line(error: TrainingFailedError) -> str:
    """Return the last line of the first worker's error."""
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    return str(first).strip().splitlines()[-1]
