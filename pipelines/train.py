"""Fine-tune a pretrained network with Ray Train; the same command resumes a run that was stopped.

    overlay train dataset --out run
    overlay train dataset --out run --train.workers 2 --train.batch_size 64 --augment.rotation 5
    overlay train images/ --out run --model.weights none --input.size 64 --train.epochs 15
    overlay train dataset --out run --train.dry_run 1
    overlay train dataset --out run-2 --fold 2

This is the driver: it checks the request, starts the workers (`pipelines.training.worker`) and has the images decoded
meanwhile, and at the end writes and evaluates the model.
"""

import math
from dataclasses import replace

import numpy as np

from cluster import session
from overlay import tracking
from overlay.config import InferenceOptions, Prepare, Train
from overlay.dataset.card import CARD_FILE
from overlay.dataset.folds import select_fold
from overlay.dataset.prepared import is_dataset, open_dataset
from overlay.dataset.rows import read_hashes
from overlay.errors import RequestError, WorkError, faults_end_the_work, saved_if_interrupted
from overlay.evaluation.mask_audit import plan_audit
from overlay.evaluation.outcome import describe_calibration, labels_of_predictions
from overlay.evaluation.output_files import EvaluationResult, Extras, write_evaluation
from overlay.evaluation.subject import EvaluationSubject, count_seen
from overlay.models import model_file, network
from overlay.models.calibrated_model import calibrate_model
from overlay.models.network import StateDict
from overlay.models.pretrained import load_pretrained
from overlay.models.training_hashes import TrainingHashes
from overlay.sources.resolve import locate_source
from overlay.storage.disk_space import check_free_space
from overlay.storage.folder_lock import FolderLock
from overlay.storage.path import StoragePath
from overlay.training import checkpoint, history
from overlay.training.checkpoint import TrainingProgress
from overlay.training.checkpoint_size import run_bytes
from overlay.training.run_folder import RunFacts, RunFolder, open_run
from pipelines import evaluate, prepare
from pipelines.runtime.command_log import log_into
from pipelines.runtime.placement import Placement, place_workers
from pipelines.runtime.room import await_actors, await_workers
from pipelines.runtime.shared_disk import check_shared_disk
from pipelines.training import dry_run
from pipelines.training.monitor import TrainingMonitor
from pipelines.training.request_check import check_batches, check_device, check_listed_images, check_training
from pipelines.training.run_facts import apply_facts, decide_facts
from pipelines.training.setup import TrainingJob, TrainingSetup, plan_steps, store_run_images
from pipelines.training.trainer import run_trainer


@faults_end_the_work()
def run(config: Train) -> None:
    """Train a model, evaluate it on the test split, and write the run's files to ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the training failed; the same command resumes from the newest checkpoint.
        KeyboardInterrupt: the training was interrupted; the same command resumes from there.
    """
    with FolderLock(StoragePath.of(config.out), "train") as lock:
        _train_model(config, lock)


def _train_model(config: Train, lock: FolderLock) -> None:
    lock.take()
    folder = open_run(config)
    if folder.finished:
        print(f"{folder.path} holds this run already, finished; nothing to do")
        return
    setup, facts = _check_request(config, folder)
    if config.train.dry_run:
        dry_run.run_dry_run(setup, facts, folder.path.parent)
        return
    folder.begin(config, setup.dataset.card.fingerprint, facts)
    log_into(folder.path)
    checkpoint.remove_partial_checkpoints(folder.checkpoints)
    progress = checkpoint.read_progress(folder.checkpoints)
    plan = plan_steps(setup, facts.batch_size)
    if progress.step:
        print(f"going on after epoch {len(progress.history)} of {plan.epochs}, at step {progress.step} of {plan.steps}")
    saved = saved_if_interrupted(lambda: _describe_saved(folder, plan.steps))
    with saved, TrainingMonitor(setup, folder, plan, progress.step) as monitor:
        progress = _train(setup, facts, folder, progress, monitor)
        options = inference_options(setup.config, setup.placement, facts.batch_size)
        try:
            await_actors(options.device, None, options.cluster)  # nodes may have gone since
            model = _write_model(setup, folder, progress, options)
            result = _evaluate_model(setup, folder, options)
        except RequestError as error:
            raise WorkError(f"{error}; the training is saved, and the same command evaluates it") from error
        monitor.finish(result.metrics, result.labels, result.predicted, model)
    folder.finish()
    print("\n".join(result.lines()))
    print(f"model: {model}\ncurves: {folder.curves_file}\nreport: {folder.evaluation / 'report.html'}")


def _check_request(config: Train, folder: RunFolder) -> tuple[TrainingSetup, RunFacts]:
    """Check a request and load what it refers to; prepares the dataset where a folder of images is given.

    Returns the setup, and the facts that bind the run from its begin.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the dataset that was prepared for the run doesn't fit the options; it stays.
    """
    tracking.resolve_mode(config.tracking)
    dataset = open_dataset(config.dataset) if is_dataset(config.dataset) else None
    if dataset is None:
        locate_source(config.dataset, "source")  # before anything is waited for
    network.check_input_size(config.model.arch, config.input.size)
    weights = load_pretrained(config.model.arch, config.model.weights)
    if config.fold is not None:
        if dataset is None:
            raise RequestError(f"fold is {config.fold}, but {config.dataset} is no prepared dataset; prepare it first")
        dataset = select_fold(dataset, config.fold)
    session.connect()
    await_workers(config.train, config.cluster)
    images = StoragePath.of(config.dataset) if dataset is None else dataset.place / CARD_FILE
    check_shared_disk(read=[("dataset", images)], written=[("out", folder.path)])
    placement = place_workers(config.train, session.resources(), config.cluster)
    check_device(config, placement)
    if dataset is not None:
        return _check_dataset(TrainingSetup.create(config, dataset, weights, placement), folder)
    wanted = Prepare(sources=[config.dataset], out=str(folder.dataset))
    dataset = prepare.run(wanted, lambda counts: check_listed_images(config, counts))
    try:
        return _check_dataset(TrainingSetup.create(config, dataset, weights, placement), folder)
    except RequestError as error:
        raise WorkError(f"{error}; the dataset is prepared, and a command with other options uses it") from error


def _check_dataset(setup: TrainingSetup, folder: RunFolder) -> tuple[TrainingSetup, RunFacts]:
    """Check a setup and the free space, and return it with the facts that bind the run from its begin."""
    check_training(setup.config, setup.dataset, setup.placement)
    needed = run_bytes(setup.config, len(setup.card.classes), resumed=folder.facts is not None)
    check_free_space(folder.path, needed, f"the training of {setup.config.model.arch}, with its checkpoints,")
    facts = folder.facts or decide_facts(setup)
    check_batches(setup.config, setup.dataset, facts.batch_size)
    return apply_facts(setup, facts), facts


def _train(
    setup: TrainingSetup, facts: RunFacts, folder: RunFolder, progress: TrainingProgress, monitor: TrainingMonitor
) -> TrainingProgress:
    """Run the workers until the training is complete, and return its progress.

    Raises:
        WorkError: the training failed.
    """
    config, plan = setup.config, plan_steps(setup, facts.batch_size)
    if not progress.is_complete(plan, config.early_stopping):
        job = TrainingJob.create(setup, plan, folder.checkpoints, monitor.board)
        run_trainer(job, lambda: store_run_images(setup, facts), monitor.request_stop)
    status = monitor.stop()
    if status.fatal_error:
        raise WorkError(status.fatal_error)
    progress = checkpoint.read_progress(folder.checkpoints)
    if not progress.is_complete(plan, config.early_stopping):
        raise WorkError(f"the workers stopped after step {progress.step} of {plan.steps}; the same command goes on")
    monitor.report_epochs(progress.history)
    return progress


def _describe_saved(folder: RunFolder, steps: int) -> str:
    step = checkpoint.checkpoint_step(checkpoint.newest_checkpoint(folder.checkpoints))
    return f"saved after step {step} of {steps}" if step else "no step is saved yet"


def _write_model(
    setup: TrainingSetup, folder: RunFolder, progress: TrainingProgress, options: InferenceOptions
) -> StoragePath:
    """Calibrate the best epoch of a complete training on the validation split, write its model file, return the path.

    The file also holds the perceptual hashes of the training and validation images.
    """
    epochs, config = progress.history, setup.config.early_stopping
    if math.isnan(epochs[-1].train_loss):
        print(f"the run diverged in epoch {len(epochs)}: its loss is no number; lower --optimizer.lr in a new run")
    print(f"best epoch: {epochs[history.best_epoch(epochs, config)].epoch} of {len(epochs)}, by {config.metric}")
    newest = checkpoint.newest_checkpoint(folder.checkpoints)
    assert newest is not None  # the training is complete
    file = folder.path / model_file.MODEL_FILE
    trained = model_file.ModelFile(str(file), checkpoint.load_best_weights(newest), setup.card, sha256="")
    state, card = _calibrate(setup, trained, options)
    dataset = setup.dataset
    hashes = TrainingHashes.create(
        read_hashes(dataset, "train"), read_hashes(dataset, "val"), dataset.card.request.duplicates.distance
    )
    model_file.save_model_file(file, state, card, hashes)
    return file


def _calibrate(
    setup: TrainingSetup, trained: model_file.ModelFile, options: InferenceOptions
) -> tuple[StateDict, model_file.ModelCard]:
    """Score the validation split and calibrate the model on it; one that gives no numbers stays as it is."""
    scored = evaluate.score_split(EvaluationSubject(trained, setup.dataset, "val"), options)
    answers = labels_of_predictions(scored.predictions, trained.card.classes)
    if not np.isfinite(answers.probabilities).all():
        return trained.state, trained.card
    state, card = calibrate_model(
        trained.state, trained.card, setup.config.calibration, answers.labels, answers.probabilities
    )
    print(f"temperature: {card.temperature:.3f}, {describe_calibration(card)}; the history's val_loss is uncalibrated")
    return state, card


def inference_options(config: Train, placement: Placement, batch_size: int) -> InferenceOptions:
    """Return the options of a run's evaluation, whose processes reserve what the nodes have room for.

    The workers' ``cluster.worker_cpus`` may leave no room for a task beside these: several workers that start together
    take none of a node that can't hold them all.
    """
    precision = "auto" if config.train.precision == "fp16" else config.train.precision
    cluster = replace(config.cluster, worker_cpus=None)
    return InferenceOptions(placement.device, precision, min(batch_size, 64), cluster=cluster)


def _evaluate_model(setup: TrainingSetup, folder: RunFolder, options: InferenceOptions) -> EvaluationResult:
    """Evaluate the model file on the test split, and write the evaluation's files."""
    model = model_file.load_model_file(folder.path / model_file.MODEL_FILE)
    subject = EvaluationSubject(model, setup.dataset, "test")
    scored = evaluate.score_split(subject, options, audit=plan_audit(subject.dataset, subject.split))
    return write_evaluation(subject, scored, folder.evaluation, Extras(count_seen(subject)))
