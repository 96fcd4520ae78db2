"""Verdict of a comparison in words: which candidates differ from the reference, and how sure that is."""

from collections.abc import Sequence

from overlay.comparison.differences import MetricDifference
from overlay.comparison.folder import ComparisonRequest
from overlay.comparison.lines import METRIC_WORDS, CandidateLine
from overlay.evaluation.page import SIGNIFICANT, p_equation


def compose_verdict(
    request: ComparisonRequest, lines: Sequence[CandidateLine], differences: Sequence[MetricDifference]
) -> str:
    """Return two to three sentences: the differences that chance does not explain, the rest, and the largest value."""
    own = [row for row in differences if row.metric == request.metric]
    metric = METRIC_WORDS[request.metric]
    sure = [row for row in own if row.p_holm < SIGNIFICANT]
    kind = "as ways of training" if request.folds else "as trained models"
    sentences = [
        f"{row.candidate} is {'better' if row.is_better else 'worse'} than {request.reference} in {metric} {kind}, by "
        f"{abs(row.difference):.3f} (95 % interval of the difference {row.low:.3f} to {row.high:.3f}, adjusted p "
        f"{p_equation(row.p_holm)})."
        for row in sure
    ]
    rest = [row.candidate for row in own if row not in sure]
    if rest:
        verb = "does" if len(rest) == 1 else "do"
        sentences.append(
            f"{_listed(rest)} {verb} not differ from {request.reference} in {metric} {kind} beyond what chance "
            f"explains on {own[0].images} images in {own[0].groups} groups."
        )
    best = (min if request.metric == "log_loss" else max)(lines, key=lambda line: line.estimate.value)
    sentences.append(
        f"The {'lowest' if request.metric == 'log_loss' else 'highest'} value of {len(lines)} candidates, "
        f"{best.estimate.value:.3f} of {best.candidate}, is an optimistic estimate, since these images picked it."
    )
    return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
