import xml.etree.ElementTree as ET

import numpy as np
import pytest

from overlay.evaluation import charts
from overlay.evaluation.reliability import reliability


def parse(chart: str) -> ET.Element:
    return ET.fromstring(chart)


def texts(chart: ET.Element) -> list[str]:
    return [text.text or "" for text in chart.iter("text")]


def titles(chart: ET.Element) -> list[str]:
    return [title.text or "" for title in chart.iter("title")]


def points(chart: ET.Element, kind: str) -> list[tuple[float, float]]:
    [line] = [line for line in chart.iter("polyline") if line.attrib["class"] == f"line {kind}"]
    return [(float(x), float(y)) for x, _, y in (pair.partition(",") for pair in line.attrib["points"].split())]


def circles(chart: ET.Element, kind: str) -> list[tuple[float, float]]:
    found = [circle.attrib for circle in chart.iter("circle") if kind in circle.attrib["class"].split()]
    return [(float(circle["cx"]), float(circle["cy"])) for circle in found]


def test_hits_and_errors_of_a_confusion_matrix_have_different_classes() -> None:
    chart = parse(charts.confusion_chart(["a", "<b>"], [[3, 1], [0, 2]]))
    cells = [rect.attrib for rect in chart.iter("rect")]
    assert [cell["class"] for cell in cells] == ["cell hit", "cell miss", "cell empty", "cell hit"]
    assert [cell.get("fill-opacity") for cell in cells] == ["0.57", "0.27", None, "0.72"]
    # Cells of 84 px, drawn with a border of 1 px.
    corners = [(float(cell["x"]), float(cell["y"]), float(cell["width"])) for cell in cells]
    left, top = corners[0][:2]
    assert corners == [(left + dx, top + dy, 82) for dy in (0, 84) for dx in (0, 84)]
    assert titles(chart) == [
        "a, called a: 3 of 4",
        "a, called <b>: 1 of 4",
        "<b>, called a: 0 of 2",
        "<b>, called <b>: 2 of 2",
    ]
    assert {"3", "75%", "1", "25%", "0", "0%", "2", "100%", "n = 4", "n = 2", "<b>"} <= set(texts(chart))


def test_a_class_without_images_has_no_shares() -> None:
    assert texts(parse(charts.confusion_chart(["a", "b"], [[1, 0], [0, 0]]))).count("n/a") == 2


def test_of_many_classes_only_filled_cells_are_drawn() -> None:
    chart = parse(charts.confusion_chart([f"class {i}" for i in range(40)], np.eye(40, dtype=int).tolist()))
    assert len(list(chart.iter("rect"))) == 40
    assert 40 * 22 < float(chart.attrib["viewBox"].split()[2]) < 40 * 22 + 200


def test_a_roc_curve_runs_from_corner_to_corner() -> None:
    curve = charts.RocCurve("malignant", 0.875, np.array([0, 0, 0.5, 1]), np.array([0, 0.75, 0.75, 1]))
    chart = parse(charts.roc_chart([curve], charts.RocPoint("malignant", 0.31, sensitivity=0.75, specificity=0.5)))
    # The plot area reaches from (54, 12) to (324, 264).
    assert points(chart, "series-0") == [(54, 264), (54, 75), (189, 75), (324, 12)]
    assert circles(chart, "operating")[0] == (189, 75)
    assert "malignant at 0.310: sensitivity 0.750, specificity 0.500" in titles(chart)
    assert {"malignant 0.875", "malignant from 0.31 on"} <= set(texts(chart))


def test_only_the_best_of_many_roc_curves_are_named() -> None:
    diagonal = np.array([0.0, 1.0])
    curves = [charts.RocCurve(f"class {i}", i / 10, diagonal, diagonal) for i in range(10)]
    chart = parse(charts.roc_chart(curves))
    names = [text for text in texts(chart) if text.startswith("class")]
    assert names == [f"class {i} {i / 10:.3f}" for i in range(9, 2, -1)]
    assert "3 more" in texts(chart)
    assert sum(line.attrib["class"] == "line other" for line in chart.iter("polyline")) == 3


def test_a_reliability_diagram_shows_bins_with_images() -> None:
    right = np.array([True, True, False, True])
    before, after = (reliability(np.array(confidence), right) for confidence in ([0.9, 0.9, 0.9, 0.6], [0.75] * 4))
    chart = parse(charts.reliability_chart(before, after))
    assert titles(chart) == [
        "before 1 images: confidence 0.600, accuracy 1.000",
        "before 3 images: confidence 0.900, accuracy 0.667",
        "after 4 images: confidence 0.750, accuracy 0.750",
    ]
    assert points(chart, "after") == [(256.5, 75)]
    assert "before" not in " ".join(texts(parse(charts.reliability_chart(None, after))))


def test_the_share_set_aside_is_drawn_against_the_accuracy_of_the_rest() -> None:
    share, accuracy = np.array([0, 0.5]), np.array([0.8, 1.0])
    chart = parse(charts.deferral_chart(share, accuracy, mark=(0.5, 1.0)))
    assert points(chart, "series-0") == [(54, 264), (189, 12)]
    assert points(chart, "chance") == [(54, 264), (324, 264)]
    assert circles(chart, "operating")[0] == (189, 12)
    assert titles(chart) == ["uncertain: 50.0% of the images; accuracy of the rest 1.000"]


def history(epochs: int) -> dict[str, list[float]]:
    loss = [2.0 / (1 + epoch) for epoch in range(epochs)]
    columns = ("train_accuracy", "val_accuracy", "val_macro_f1")
    return {
        "epoch": [float(epoch + 1) for epoch in range(epochs)],
        "train_loss": loss,
        "val_loss": [*loss[:-1], float("nan")],
        **{column: [0.5] * epochs for column in columns},
    }


def test_losses_start_at_zero_and_leave_out_what_is_no_number() -> None:
    chart = parse(charts.training_chart(history(3), 2, loss=True))
    # 460 x 250 px: x from 0.7 to 3.3 onto 54 to 448, y from 0 to 2.1 onto 204 to 12.
    across, down = [54 + 394 * (epoch - 0.7) / 2.6 for epoch in (1, 2, 3)], [204 - 192 * y / 2.1 for y in (2, 1, 2 / 3)]
    np.testing.assert_allclose(points(chart, "series-0"), list(zip(across, down, strict=True)), atol=0.051)
    assert len(points(chart, "series-1")) == 2
    assert {"train loss", "val loss", "best epoch, 2", "1", "2", "3"} <= set(texts(chart))
    assert "train loss, epoch 2: 1.000" in titles(chart)


@pytest.mark.parametrize("epochs", [1, 2, 100])
def test_training_curves_of_any_length(epochs: int) -> None:
    for loss in (True, False):
        chart = parse(charts.training_chart(history(epochs), None, loss=loss))
        dots = len(list(chart.iter("circle")))
        assert (dots == 0) == (epochs > 30)
        assert all(float(text) == int(text) for text in texts(chart)[: min(epochs, 5)] if loss and text.isdigit())
