"""Output files of a comparison: tables, picture and page, written from the runs and evaluations in its folder."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from overlay.comparison.answers import Answers, ComparedImages, align_answers, metric_influence
from overlay.comparison.differences import MetricDifference, compare_answers, training_values
from overlay.comparison.figure import draw_comparison
from overlay.comparison.folder import ComparisonFolder, ComparisonRequest
from overlay.comparison.lines import CandidateLine
from overlay.comparison.page import ComparisonPage, render_comparison
from overlay.comparison.results import (
    ComparedModel,
    doubts_table,
    predictions_table,
    read_conflicts,
    read_predictions,
    result_row,
    results_table,
)
from overlay.comparison.verdict import compose_verdict
from overlay.config import COMPARISON_METRICS
from overlay.dataset.prepared import PreparedDataset
from overlay.dataset.same_images import groups_by_id
from overlay.errors import WorkError
from overlay.evaluation.intervals import estimate_metric
from overlay.storage.atomic import write_atomically

COMPARISON_SCHEMA = pa.schema(
    [
        ("candidate", pa.string()),
        ("reference", pa.string()),
        ("metric", pa.string()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("p_method", pa.float64()),
        ("p_models", pa.float64()),
        ("p_holm", pa.float64()),
        ("only_candidate_right", pa.int64()),
        ("only_reference_right", pa.int64()),
        ("images", pa.int64()),
        ("groups", pa.int64()),
    ]
)
"""columns of comparison.parquet, a row for each candidate but the reference and each metric; see `MetricDifference`"""


@dataclass(frozen=True)
class ComparisonOutcome:
    """What a comparison found."""

    verdict: str
    lines: list[CandidateLine]
    """of the candidates whose trainings all succeeded, in the order given"""
    chosen: str | None
    """candidate with the highest mean macro-F1 on the validation images; None where finished models are compared"""
    failed: list[str]
    """trainings that failed, with their reasons"""


def write_comparison(
    folder: ComparisonFolder, request: ComparisonRequest, dataset: PreparedDataset, compared: Sequence[ComparedModel]
) -> ComparisonOutcome:
    """Compute and write all files of a comparison; it is finished unless a training failed.

    Raises:
        WorkError: the trainings of the reference failed, or those of all other candidates; results.parquet is written.
    """
    classes = tuple(request.classes)
    rows = [result_row(model, classes, request.positive) for model in compared]
    _write_table(folder, "results.parquet", results_table(rows))
    failed = [f"{_name(model)}: {model.error}" for model in compared if model.error]
    complete = _complete_candidates(compared)
    if request.reference not in complete or len(complete) < 2:
        raise WorkError(
            f"nothing can be compared, since trainings failed: {failed[0]}; the same command tries them again"
        )
    groups = groups_by_id(dataset)
    tables = {
        name: pa.concat_tables([read_predictions(model, classes) for model in models])
        for name, models in complete.items()
    }
    images, answers = align_answers(tables, groups, classes, request.positive)
    differences = compare_answers(images, answers, request.reference, request.folds)
    conflicts = read_conflicts(dataset)
    doubts = doubts_table(images, answers, conflicts)
    lines = _candidate_lines(images, answers, request, rows)
    chosen = _choose_by_validation(rows, list(complete))
    outcome = ComparisonOutcome(compose_verdict(request, lines, differences), lines, chosen, failed)
    _write_table(folder, "predictions.parquet", predictions_table(tables, groups, classes))
    _write_table(
        folder,
        "comparison.parquet",
        pa.Table.from_pylist([asdict(row) for row in differences], schema=COMPARISON_SCHEMA),
    )
    _write_table(folder, "label_doubts.parquet", doubts)
    page = ComparisonPage(
        title=folder.path.name,
        verdict=outcome.verdict,
        request=request,
        dataset=dataset,
        lines=lines,
        differences=differences,
        chosen=chosen,
        alarms=[f"{model.candidate}: {text}" for model in compared for text in model.cautions]
        + [f"A training failed, so its candidate is in no test: {reason}" for reason in failed],
        images=images,
        answers=answers,
        doubts=doubts,
    )
    for name, content in {
        "comparison.png": draw_comparison(lines, differences, request),
        "report.html": render_comparison(page).encode(),
    }.items():
        with write_atomically(folder.path / name) as temporary:
            temporary.write_bytes(content)
    if not failed:
        folder.finish(request, _findings(outcome, differences))
    return outcome


def _complete_candidates(compared: Sequence[ComparedModel]) -> dict[str, list[ComparedModel]]:
    """Return the models of each candidate without a failed training."""
    by_name = defaultdict(list)
    for model in compared:
        by_name[model.candidate].append(model)
    return {name: models for name, models in by_name.items() if not any(model.error for model in models)}


def _candidate_lines(
    images: ComparedImages,
    answers: Mapping[str, Answers],
    request: ComparisonRequest,
    rows: Sequence[Mapping[str, object]],
) -> list[CandidateLine]:
    lines = []
    for name, given in answers.items():
        own = [row for row in rows if row["candidate"] == name]
        found = {metric: metric_influence(metric, images, given) for metric in COMPARISON_METRICS}
        estimates = {
            metric: estimate_metric(influence, images.groups) for metric, influence in found.items() if influence
        }
        if request.metric not in estimates:
            raise WorkError(f"the metric {request.metric} is not defined on these images; choose another --metric")
        lines.append(
            CandidateLine(
                candidate=name,
                estimate=estimates[request.metric],
                estimates=estimates,
                per_training=training_values(request.metric, images, given).tolist(),
                seconds=_mean(own, "seconds"),
                parameters=int(own[0]["parameters"]),  # type: ignore[call-overload]
                val_macro_f1=_mean(own, "val_macro_f1"),
            )
        )
    return lines


def _choose_by_validation(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> str | None:
    means = {name: _mean([row for row in rows if row["candidate"] == name], "val_macro_f1") for name in names}
    known = {name: value for name, value in means.items() if value is not None}
    return max(known, key=lambda name: known[name]) if len(known) == len(names) else None


def _mean(rows: Sequence[Mapping[str, object]], column: str) -> float | None:
    values = [row.get(column) for row in rows]
    return None if None in values else float(np.mean(np.array(values, dtype=np.float64)))


def _findings(outcome: ComparisonOutcome, differences: Sequence[MetricDifference]) -> dict[str, object]:
    """Return what compare.json says of the results."""
    return {
        "verdict": outcome.verdict,
        "chosen_by_validation": outcome.chosen,
        "candidates": {
            line.candidate: {metric: asdict(value) for metric, value in line.estimates.items()}
            for line in outcome.lines
        },
        "differences": [asdict(row) for row in differences],
    }


def _name(model: ComparedModel) -> str:
    return f"{model.candidate}, seed {model.seed}, fold {model.fold}"


def _write_table(folder: ComparisonFolder, name: str, table: pa.Table) -> None:
    with write_atomically(folder.path / name) as temporary:
        pq.write_table(table, temporary)
