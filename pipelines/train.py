"""Fine-tune a pretrained network with Ray Train; the same command goes on where it stopped.

    overlay train dataset --out run
    overlay train dataset --out run --train.workers 2 --train.batch_size 64 --augment.rotation 5
    overlay train images/ --out run --model.weights none --input.size 64 --train.epochs 15

This is the driver: it checks the request, has the images decoded, starts the workers (`pipelines.train_loop`) and, in
the end, writes and evaluates the model.
"""

import math
from collections import OrderedDict
from importlib.metadata import version

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from cluster import session
from overlay import history, model, tracking
from overlay.config import Prepare, Train
from overlay.dataset import PreparedDataset, is_dataset, open_dataset
from overlay.errors import RequestError, WorkError
from overlay.plan import Plan
from overlay.pretrained import Weights, pretrained
from overlay.run_folder import open_run
from pipelines import checkpoint, evaluate, ingest, prepare
from pipelines.placement import Placement, place
from pipelines.scoring import Engine
from pipelines.tracker import Tracker
from pipelines.train_loop import Job, train_worker


def run(config: Train) -> None:
    """Train, evaluate on the test split, and leave the run's files in ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the training failed; the same command goes on from the last epoch.
    """
    folder = open_run(config)
    if folder.finished:
        print(f"{folder.path} holds this run already, finished; nothing to do")
        return
    tracking.resolve(config.tracking)
    weights = pretrained(config.model.arch, config.model.weights)
    dataset = open_dataset(config.dataset) if is_dataset(config.dataset) else None
    session.connect()
    placement = place(config.train, session.resources())
    if dataset is None:
        dataset = prepare.run(Prepare(sources=[config.dataset], out=str(folder.dataset)))
    plan = _plan(config, dataset, placement)
    card = _card(config, dataset, weights)
    folder.begin(config, dataset.card.fingerprint)
    epochs = checkpoint.history(checkpoint.newest(folder.checkpoints))
    if epochs:
        print(f"going on after epoch {len(epochs)} of {plan.epochs}")

    with Tracker(config, folder, plan, done=len(epochs)) as tracker:
        if len(epochs) < plan.epochs and not history.should_stop(epochs, config.early_stopping):
            attempt = checkpoint.start_attempt(folder.checkpoints)
            job = Job(
                config=config,
                card=card,
                weights=ray.put(weights),
                train=ingest.decoded(dataset, "train", config.input),
                validation=ingest.decoded(dataset, "val", config.input),
                plan=plan,
                placement=placement,
                checkpoints=folder.checkpoints,
                attempt=attempt,
                board=tracker.board,
            )
            _fit(job)
        tracker.stop()
        last = checkpoint.newest(folder.checkpoints)
        assert last is not None
        epochs = checkpoint.history(last)
        tracker.show(epochs)
        if math.isnan(epochs[-1].train_loss):
            print(f"the run diverged in epoch {len(epochs)}: its loss is no number; lower --optimizer.lr in a new run")
        best = history.best_epoch(epochs, config.early_stopping)
        print(f"best epoch: {epochs[best].epoch} of {len(epochs)}, by {config.early_stopping.metric}")

        file = folder.path / model.MODEL_FILE
        model.save(file, OrderedDict(checkpoint.load(last, "best.pt")), card)
        engine = Engine(placement.device, config.train.precision, config.train.batch_size)
        curves = history.curves(epochs, best)
        result = evaluate.evaluate(model.load(file), dataset, "test", folder.evaluation, engine, curves)
        tracker.finish(result.metrics, result.labels, result.predicted, file)
    folder.finish()
    print(f"test: {evaluate.summary(result.metrics)}")
    print(f"model: {file}\ncurves: {folder.curves_file}\nreport: {folder.evaluation / 'report.html'}")


def _fit(job: Job) -> None:
    """Let Ray Train run the workers to the end, and start them again where one dies.

    Raises:
        WorkError: they failed too often.
    """
    placement = job.placement
    gpus = int(placement.device == "cuda")
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=placement.workers,
            use_gpu=bool(gpus),
            resources_per_worker={"CPU": placement.worker_cpus, "GPU": gpus},
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name=job.attempt.name,
            storage_path=str(job.checkpoints),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise WorkError(f"training stopped: {_reason(error)}; the same command goes on from the last epoch") from error


def _plan(config: Train, dataset: PreparedDataset, placement: Placement) -> Plan:
    samples = sum(counts["train"] for counts in dataset.card.counts.values())
    plan = Plan(samples, config.train.batch_size, config.train.epochs, config.train.seed)
    if plan.smallest_batch < 2 * placement.workers:
        raise RequestError(
            f"{samples} training images in batches of {config.train.batch_size} leave a worker fewer than 2 in a step, "
            "and batch normalisation needs more than one; use fewer workers or another train.batch_size"
        )
    return plan


def _card(config: Train, dataset: PreparedDataset, weights: Weights) -> model.ModelCard:
    style = dataset.card.request.overlay
    return model.ModelCard(
        arch=config.model.arch,
        classes=tuple(dataset.card.classes),
        size=config.input.size,
        resize=config.input.resize,
        mean=weights.mean,
        std=weights.std,
        overlay=style,
        dataset=dataset.card.fingerprint,
        weights=config.model.weights,
        version=version("overlay"),
    )


def _reason(error: TrainingFailedError) -> str:
    """Return the last line of the first worker's error."""
    failures = getattr(error, "worker_failures", {})
    first = next(iter(failures.values()), error)
    return str(first).strip().splitlines()[-1]
