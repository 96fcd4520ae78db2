import numpy as np
import pyarrow as pa
import pytest

from overlay.comparison.answers import Answers, ComparedImages, align_answers, metric_influence
from overlay.comparison.differences import compare_answers, training_values
from overlay.evaluation.paired_tests import corrected_resampled_t

CLASSES = ("benign", "malignant")


def certain(predicted: list[int]) -> Answers:
    return Answers(np.where(np.eye(2)[predicted] > 0, 0.9, 0.1))


def images_of(labels: list[int], folds: list[int] | None = None) -> ComparedImages:
    n = len(labels)
    return ComparedImages(
        ids=np.array([f"i{number}" for number in range(n)], dtype=object),
        labels=np.array(labels),
        groups=np.arange(n),
        seeds=np.zeros(n, np.int64),
        folds=np.array(folds or [-1] * n),
        classes=CLASSES,
        positive=1,
    )


def test_the_accuracy_of_two_finished_models_has_mcnemars_exact_p() -> None:
    # 15 images that only a classifies correctly, 5 that only b does, 10 that both do: 5425/131072.
    labels = [0, 1] * 15
    a = certain([label if row < 15 or row >= 20 else 1 - label for row, label in enumerate(labels)])
    b = certain([label if row >= 15 else 1 - label for row, label in enumerate(labels)])
    rows = {row.metric: row for row in compare_answers(images_of(labels), {"b": b, "a": a}, "b", None)}
    row = rows["accuracy"]
    assert (row.candidate, row.reference) == ("a", "b")
    assert row.p_models == pytest.approx(0.04138946533203125, abs=1e-12)
    assert row.p_holm == row.p_models
    assert row.p_method is None
    assert (row.only_candidate_right, row.only_reference_right, row.images, row.groups) == (15, 5, 30, 30)
    assert row.difference == pytest.approx(1 / 3)
    assert row.low < 1 / 3 < row.high
    assert row.is_better
    assert rows["log_loss"].difference < 0
    assert rows["log_loss"].is_better
    assert rows["sensitivity"].images == 15


def test_over_folds_the_p_of_the_method_is_the_corrected_resampled_t() -> None:
    labels = [0, 1] * 10
    folds = [row // 4 for row in range(20)]
    wrong_a, wrong_b = {0, 5, 13}, {1, 2, 6, 9, 10, 13, 18}
    a = certain([1 - label if row in wrong_a else label for row, label in enumerate(labels)])
    b = certain([1 - label if row in wrong_b else label for row, label in enumerate(labels)])
    images = images_of(labels, folds)
    row = next(row for row in compare_answers(images, {"b": b, "a": a}, "b", 5) if row.metric == "accuracy")
    apart = np.array([1, 0, 2, 0, 1]) / 4
    assert training_values("accuracy", images, a) - training_values("accuracy", images, b) == pytest.approx(apart)
    assert row.p_method == pytest.approx(corrected_resampled_t(apart, 1 / 3).p)
    assert row.p_holm == row.p_method


def test_an_auroc_over_folds_is_the_mean_of_the_folds() -> None:
    images = images_of([1, 0, 1, 0], [0, 0, 1, 1])
    scores = np.array([0.9, 0.8, 0.3, 0.2])
    found = metric_influence("auroc", images, Answers(np.stack([1 - scores, scores], axis=1)))
    assert found is not None
    assert found.value == 1


def test_p_values_are_adjusted_over_the_candidates() -> None:
    labels = [0, 1] * 8
    reference = certain([1 - label if row < 6 else label for row, label in enumerate(labels)])
    answers = {"r": reference, "x": certain(labels), "y": certain(labels), "z": reference}
    rows = {row.candidate: row for row in compare_answers(images_of(labels), answers, "r", None)[:3]}
    assert [rows[name].p_models for name in "xyz"] == pytest.approx([1 / 32, 1 / 32, 1])
    assert [rows[name].p_holm for name in "xyz"] == pytest.approx([3 / 32, 3 / 32, 1])


def test_without_an_image_of_a_class_the_auroc_and_the_sensitivity_are_left_out() -> None:
    rows = compare_answers(images_of([0, 0, 0]), {"a": certain([0, 1, 0]), "b": certain([0, 0, 0])}, "a", None)
    assert {row.metric for row in rows} == {"accuracy", "balanced_accuracy", "macro_f1", "log_loss"}


def table(ids: list[str], malignant: list[float]) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "id": ids,
            "seed": [0] * n,
            "fold": pa.nulls(n, pa.int32()),
            "true_label": ["malignant" if each == "m" else "benign" for each in ids],
            "prob_benign": [1 - score for score in malignant],
            "prob_malignant": malignant,
        }
    )


def test_answers_are_aligned_by_id_and_grouped() -> None:
    tables = {"a": table(["m", "b", "c"], [0.9, 0.2, 0.1]), "b": table(["c", "m", "b"], [0.3, 0.4, 0.8])}
    images, answers = align_answers(tables, {"m": "g1", "b": "g0", "c": "g1"}, CLASSES, "malignant")
    assert images.ids.tolist() == ["b", "c", "m"]
    assert images.labels.tolist() == [0, 0, 1]
    assert images.groups.tolist() == [0, 1, 1]
    assert images.folds.tolist() == [-1, -1, -1]
    assert answers["a"].probabilities[:, 1].tolist() == [0.2, 0.1, 0.9]
    assert answers["b"].predicted.tolist() == [1, 0, 0]


def test_answers_to_other_images_are_not_compared() -> None:
    tables = {"a": table(["m", "b"], [0.9, 0.2]), "b": table(["c", "m"], [0.3, 0.4])}
    with pytest.raises(ValueError, match="b answered other images than a"):
        align_answers(tables, {name: name for name in "mbc"}, CLASSES, None)
