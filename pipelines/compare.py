"""Comparison of models on the same images: finished ones, or candidates trained in every fold of a dataset.

    overlay compare dataset run-a run-b model.pth --out comparison
    overlay compare dataset --archs resnet18,resnet101 --out comparison --train.epochs 10
    overlay compare dataset --candidates candidates.yaml --seeds 0,1 --out comparison --metric macro_f1

Each training is an ordinary run of `overlay train --fold`, so the same command resumes a comparison that was stopped.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from cluster import session
from overlay import tracking
from overlay.comparison.candidates import Candidate, choose_reference, name_models, read_candidates
from overlay.comparison.folder import ComparisonFolder, ComparisonRequest, open_comparison
from overlay.comparison.outputs import ComparisonOutcome, write_comparison
from overlay.comparison.results import ComparedModel
from overlay.config import Compare, InferenceOptions, Train, dotted
from overlay.dataset.folds import count_folds, select_fold
from overlay.dataset.prepared import PreparedDataset, open_dataset
from overlay.dataset.same_images import check_same_images
from overlay.errors import RequestError, WorkError, faults_end_the_work
from overlay.evaluation.output_files import Extras, write_evaluation
from overlay.evaluation.subject import EvaluationSubject, cautions, count_seen
from overlay.models import network
from overlay.models.model_file import ModelFile, load_model_file
from overlay.models.pretrained import load_pretrained
from overlay.storage.disk_space import allocated_bytes, check_free_space
from overlay.storage.folder_lock import FolderLock
from overlay.storage.parquet import open_parquet
from overlay.storage.path import StoragePath
from overlay.training.checkpoint_size import run_bytes
from pipelines import evaluate, train
from pipelines.runtime.command_log import log_into
from pipelines.runtime.placement import place_workers
from pipelines.runtime.room import await_workers
from pipelines.training.request_check import check_batches, check_training
from pipelines.training.run_pool import PooledRun, count_slots, train_runs


@dataclass(frozen=True)
class ComparisonPlan:
    """Checked request of a comparison."""

    config: Compare
    request: ComparisonRequest
    dataset: PreparedDataset
    folder: ComparisonFolder
    candidates: list[Candidate]
    """to train; empty where finished models are compared"""
    models: dict[str, ModelFile]
    """finished models by name; empty where candidates are trained"""
    device: Literal["cpu", "cuda"] = "cpu"
    """that evaluates finished models"""


@faults_end_the_work()
def run(config: Compare) -> None:
    """Compare into ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: a training failed or was interrupted; the same command resumes it.
    """
    with FolderLock(StoragePath.of(config.out), "compare") as lock:
        lock.take()
        _compare(config)


def _compare(config: Compare) -> None:
    plan = _plan_models(config) if config.models else _plan_trainings(config)
    if plan.folder.finished:
        print(f"{plan.folder.path} holds this comparison already, finished; nothing to do")
        return
    print(f"reference: {plan.request.reference}; metric of the verdict: {plan.request.metric}")
    plan.folder.begin(plan.request)
    log_into(plan.folder.path)
    compared = _evaluate_models(plan) if plan.models else _train_candidates(plan)
    outcome = write_comparison(plan.folder, plan.request, plan.dataset, compared)
    print(outcome.verdict)
    _print_table(outcome)
    if outcome.failed:
        raise WorkError(
            f"{len(outcome.failed)} of {len(compared)} trainings failed, first {outcome.failed[0]}; the same command "
            "tries them again"
        )
    print(f"report: {plan.folder.path / 'report.html'}")
    if plan.candidates:
        best = [model for model in compared if model.candidate == outcome.chosen]
        runs = ",".join(str(model.path) for model in best)
        print(f"to use {outcome.chosen}, which validation chose: overlay predict {runs} INPUT... --out DIR")


def _plan_models(config: Compare) -> ComparisonPlan:
    """Check a comparison of finished models.

    Raises:
        RequestError: a model can't be read, has other classes, or is one of another fold; two are the same file.
    """
    names = name_models(config.models)
    models = {name: load_model_file(path) for name, path in zip(names, config.models, strict=True)}
    checksums = [model.sha256 for model in models.values()]
    for position, name in enumerate(names):
        if checksums[position] in checksums[:position]:
            raise RequestError(f"{name} and {names[checksums.index(checksums[position])]} are the same model")
    dataset = open_dataset(config.dataset)
    own = {
        name: file.card.fold if file.card.dataset == dataset.card.fingerprint else None for name, file in models.items()
    }
    if len(set(own.values())) > 1:
        listed = ", ".join(f"{name} of {'none' if fold is None else fold}" for name, fold in own.items())
        raise RequestError(
            f"the models were trained in different folds of this dataset ({listed}), so that one has seen "
            "the test images of another; compare models of one fold, or candidates in all folds"
        )
    if (fold := next(iter(own.values()))) is not None:
        dataset = select_fold(dataset, fold)
    classes = next(iter(models.values())).card.classes
    for name, file in models.items():
        if file.card.classes != classes:
            raise RequestError(
                f"{name} knows the classes {', '.join(file.card.classes)}, and {names[0]} {', '.join(classes)}; "
                "compare models of the same classes"
            )
        seen = count_seen(EvaluationSubject(file, dataset, "test"))
        if seen is not None and seen.total:
            raise RequestError(
                f"{name} has seen {seen.total} of the {seen.images} test images of {config.dataset}; compare it on "
                "images that it was not trained on"
            )
    request = ComparisonRequest(
        dataset=dataset.card.fingerprint,
        classes=list(classes),
        candidates={name: {"sha256": file.sha256} for name, file in models.items()},
        reference=choose_reference(names, config.reference),
        metric=config.metric,
        positive=_positive_class(config, dataset),
        seeds=[],
        folds=None,
    )
    folder = open_comparison(config, request)
    device = evaluate.connect_for(
        EvaluationSubject(models[names[0]], dataset, "test"), None, config.train.device, config.cluster
    )
    return ComparisonPlan(config, request, dataset, folder, [], models, device)


def _plan_trainings(config: Compare) -> ComparisonPlan:
    """Check a comparison of candidates, and all that their trainings need.

    Raises:
        RequestError: the dataset has no folds or fewer than three; a candidate's options are wrong; its dataset holds
            other images; its network or weights are not there; the cluster is too small.
    """
    candidates = read_candidates(config)
    dataset = open_dataset(config.dataset)
    folds = count_folds(dataset)
    if folds < 3:
        raise RequestError(f"{config.dataset} has {folds} folds; a comparison needs three, so prepare it with more")
    tracking.resolve_mode(config.tracking)
    fingerprints = {}
    for candidate in candidates:
        options = candidate.options
        try:
            network.check_input_size(options.model.arch, options.input.size)
            load_pretrained(options.model.arch, options.model.weights)
            own = open_dataset(options.dataset)
            if own.card.fingerprint != dataset.card.fingerprint:
                check_same_images(dataset, own)
            fingerprints[candidate.name] = own.card.fingerprint
        except RequestError as error:
            raise RequestError(f"candidate {candidate.name}: {error}") from None
    request = ComparisonRequest(
        dataset=dataset.card.fingerprint,
        classes=list(dataset.card.classes),
        candidates={
            each.name: {"fingerprint": fingerprints[each.name], **_identity(each.options)} for each in candidates
        },
        reference=choose_reference([each.name for each in candidates], config.reference),
        metric=config.metric,
        positive=_positive_class(config, dataset),
        seeds=config.seed_numbers,
        folds=folds,
    )
    folder = open_comparison(config, request)
    session.connect()
    for candidate in candidates:
        await_workers(candidate.options.train, candidate.options.cluster)
        _check_candidate(candidate, folds)
    runs = folds * len(config.seed_numbers)
    each = [run_bytes(candidate.options, len(dataset.card.classes), resumed=True) for candidate in candidates]
    there = 0 if folder.path.in_bucket else allocated_bytes(Path(folder.path.text))
    check_free_space(
        folder.path, max(0, runs * sum(each) - there), f"the comparison, of {runs * len(candidates)} trainings,"
    )
    return ComparisonPlan(config, request, dataset, folder, candidates, {})


def _identity(options: Train) -> dict[str, Any]:
    """Return the options of a candidate that its results depend on: all but the cluster's."""
    return {name: value for name, value in dotted(asdict(options)).items() if not name.startswith("cluster.")}


def _check_candidate(candidate: Candidate, folds: int) -> None:
    """Check the trainings of a candidate in all folds.

    Raises:
        RequestError: the cluster is too small, or the options don't fit the dataset of a fold.
    """
    options = candidate.options
    dataset = open_dataset(options.dataset)
    try:
        placement = place_workers(options.train, session.resources(), options.cluster)
        for fold in range(folds):
            own = select_fold(dataset, fold)
            check_training(options, own, placement)
            if options.train.batch_size != "auto":
                check_batches(options, own, int(options.train.batch_size))
    except RequestError as error:
        raise RequestError(f"candidate {candidate.name}: {error}") from None


def _positive_class(config: Compare, dataset: PreparedDataset) -> str | None:
    """Return the class whose recall is the sensitivity.

    Raises:
        RequestError: the class asked for is none of the dataset, or the metric needs one and none is given.
    """
    classes = dataset.card.classes
    if config.positive is not None and config.positive not in classes:
        raise RequestError(f"positive is {config.positive}, and the classes are {', '.join(classes)}")
    positive = config.positive or ("malignant" if "malignant" in classes else None)
    if config.metric == "sensitivity" and positive is None:
        raise RequestError("metric is sensitivity; give the class with --positive, since there is no class malignant")
    return positive


def _evaluate_models(plan: ComparisonPlan) -> list[ComparedModel]:
    """Evaluate each finished model on the test split; those that an earlier command evaluated are left as they are."""
    compared = []
    for name, file in plan.models.items():
        out = plan.folder.evaluation(name)
        subject = EvaluationSubject(file, plan.dataset, "test")
        if not (out / "metrics.json").is_file():
            print(f"evaluating {name}", flush=True)
            scores = evaluate.score_split(
                subject, InferenceOptions(plan.device, "auto", 64, cluster=plan.config.cluster)
            )
            write_evaluation(subject, scores, out, Extras(count_seen(subject)))
        compared.append(
            ComparedModel(
                candidate=name,
                seed=None,
                fold=None,
                path=StoragePath.of(file.path),
                dataset=plan.dataset,
                predictions=out / "predictions.parquet",
                cautions=cautions(subject, count_seen(subject)),
            )
        )
    return compared


def _train_candidates(plan: ComparisonPlan) -> list[ComparedModel]:
    """Train every candidate in every fold with every seed; finished trainings are left as they are."""
    assert plan.request.folds is not None
    keys = [
        (candidate, seed, fold)
        for seed in plan.request.seeds
        for fold in range(plan.request.folds)
        for candidate in plan.candidates
    ]
    runs = [
        PooledRun(
            candidate.training(plan.folder.run(candidate.name, seed, fold), seed, fold),
            plan.folder.log(candidate.name, seed, fold),
        )
        for candidate, seed, fold in keys
    ]
    errors: dict[int, str] = {}

    def report(position: int, error: str | None) -> None:
        candidate, seed, fold = keys[position]
        print(f"{candidate.name}, seed {seed}, fold {fold}: {error or _accuracy_line(runs[position])}", flush=True)
        if error is not None:
            errors[position] = error

    slots = count_slots([run.request for run in runs], plan.config.parallel, session.resources())
    print(
        f"{len(runs)} trainings: {len(plan.candidates)} candidates, {plan.request.folds} folds, "
        f"{len(plan.request.seeds)} seeds; {slots} at a time"
    )
    train_runs(runs, train.run, slots, report)
    return [
        ComparedModel(
            candidate=candidate.name,
            seed=seed,
            fold=fold,
            path=run.folder.path,
            dataset=select_fold(open_dataset(candidate.options.dataset), fold),
            predictions=run.folder.evaluation / "predictions.parquet",
            error=errors.get(position),
        )
        for position, ((candidate, seed, fold), run) in enumerate(zip(keys, runs, strict=True))
    ]


def _accuracy_line(run: PooledRun) -> str:
    """Return the test accuracy of a finished run in words."""
    with open_parquet(run.folder.evaluation / "predictions.parquet") as file:
        table = file.read(columns=["label", "true_label"])
    right = pc.sum(pc.equal(table["label"], table["true_label"])).as_py()
    return f"accuracy {right / len(table):.3f} on {len(table)} test images"


def _print_table(outcome: ComparisonOutcome) -> None:
    """Print a line for each candidate: the metric of the verdict with its interval."""
    width = max(len(line.candidate) for line in outcome.lines)
    for line in outcome.lines:
        value = line.estimate
        print(f"  {line.candidate:{width}}  {value.value:.3f} (95 % interval {value.low:.3f} to {value.high:.3f})")
