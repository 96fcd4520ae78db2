"""Fine-tune a pretrained network with Ray Train; the same command goes on where it stopped.

    overlay train dataset --out run
    overlay train dataset --out run --train.workers 2 --train.batch_size 64 --augment.rotation 5
    overlay train images/ --out run --model.weights none --input.size 64 --train.epochs 15
    overlay train dataset --out run --train.dry_run 1

This is the driver: it checks the request, has the images decoded, starts the workers (`pipelines.training.worker`) and,
in the end, writes and evaluates the model.
"""

import math
import tempfile
from collections import OrderedDict
from pathlib import Path

import ray

from cluster import session
from overlay import tracking
from overlay.config import InferenceOptions, Prepare, Train
from overlay.dataset.prepared import is_dataset, open_dataset
from overlay.errors import RequestError, WorkError, faults_end_the_work
from overlay.evaluation.metrics import summary_line
from overlay.evaluation.output_files import write_evaluation
from overlay.evaluation.report_data import EvaluationSubject
from overlay.models import model_file, network
from overlay.models.pretrained import load_pretrained
from overlay.training import checkpoint, history
from overlay.training.losses import class_weights
from overlay.training.run_folder import open_run
from pipelines import evaluate, prepare
from pipelines.runtime.placement import Placement, place_workers
from pipelines.training import dry_run, image_source
from pipelines.training.monitor import TrainingMonitor
from pipelines.training.trainer import class_counts, create_model_card, create_sample_plan, run_trainer
from pipelines.training.worker import TrainingJob


@faults_end_the_work()
def run(config: Train) -> None:
    """Train, evaluate on the test split, and leave the run's files in ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the training failed or was stopped; the same command goes on from the newest checkpoint.
    """
    folder = open_run(config)
    if folder.finished:
        print(f"{folder.path} holds this run already, finished; nothing to do")
        return
    tracking.resolve_mode(config.tracking)
    network.check_input_size(config.model.arch, config.input.size)
    weights = load_pretrained(config.model.arch, config.model.weights)
    dataset = open_dataset(config.dataset) if is_dataset(config.dataset) else None
    session.connect()
    placement = place_workers(config.train, session.resources())
    _check_device(config, placement)
    if dataset is None:
        dataset = prepare.run(Prepare(sources=[config.dataset], out=str(folder.dataset)))
    batch_size = folder.batch_size or dry_run.choose_batch_size(config, dataset, weights, placement)
    if config.train.dry_run:
        folder.path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.path.parent) as scratch:
            dry_run.run_dry_run(config, dataset, weights, placement, Path(scratch), batch_size)
        return
    card = create_model_card(config, dataset, weights)
    folder.begin(config, dataset.card.fingerprint, batch_size)
    last = checkpoint.newest_checkpoint(folder.checkpoints)
    epochs, step = checkpoint.checkpoint_history(last), checkpoint.checkpoint_step(last)
    checkpoint.remove_partial_checkpoints(folder.checkpoints)
    source, plan = create_sample_plan(config, dataset, batch_size)
    if step:
        print(f"going on after epoch {len(epochs)} of {plan.epochs}, at step {step} of {plan.steps}")

    with TrainingMonitor(config, folder, plan, placement, begin=step) as tracker:
        if step < plan.steps and not history.should_stop(epochs, config.early_stopping):
            job = TrainingJob(
                config=config,
                card=card,
                weights=ray.put(weights),
                class_weights=class_weights(config.loss, card.classes, class_counts(dataset, "train")),
                train=source,
                validation=image_source.decode_split(dataset, "val", config.input),
                plan=plan,
                placement=placement,
                checkpoints=folder.checkpoints,
                board=tracker.board,
            )
            run_trainer(job)
        posted = tracker.stop()
        last = checkpoint.newest_checkpoint(folder.checkpoints)
        epochs, step = checkpoint.checkpoint_history(last), checkpoint.checkpoint_step(last)
        if posted.hopeless:
            raise WorkError(posted.hopeless)
        if last is None or (step < plan.steps and not history.should_stop(epochs, config.early_stopping)):
            raise WorkError(f"stopped after step {step} of {plan.steps}, as asked; the same command goes on from there")
        tracker.show(epochs)
        if math.isnan(epochs[-1].train_loss):
            print(f"the run diverged in epoch {len(epochs)}: its loss is no number; lower --optimizer.lr in a new run")
        best = history.best_epoch(epochs, config.early_stopping)
        print(f"best epoch: {epochs[best].epoch} of {len(epochs)}, by {config.early_stopping.metric}")

        file = folder.path / model_file.MODEL_FILE
        model_file.save_model_file(file, OrderedDict(checkpoint.load_checkpoint(last, "best.pt")), card)
        precision = "auto" if config.train.precision == "fp16" else config.train.precision
        options = InferenceOptions(placement.device, precision, min(batch_size, 64))
        curves = history.history_curves(epochs, best)
        subject = EvaluationSubject(model_file.load_model_file(file), dataset, "test")
        result = write_evaluation(subject, evaluate.score_split(subject, options), folder.evaluation, curves)
        tracker.finish(result.metrics, result.labels, result.predicted, file)
    folder.finish()
    print(f"test: {summary_line(result.metrics)}")
    print(f"model: {file}\ncurves: {folder.curves_file}\nreport: {folder.evaluation / 'report.html'}")


def _check_device(config: Train, placement: Placement) -> None:
    """Refuse what a CPU can't do.

    Raises:
        RequestError: it is asked for.
    """
    if placement.device == "cpu":
        if config.train.precision == "fp16":
            raise RequestError("train.precision is fp16, which needs a GPU; choose bf16 or fp32")
        if config.train.sync_batch_norm:
            raise RequestError("train.sync_batch_norm needs GPUs; --model.freeze_norm does without statistics")
