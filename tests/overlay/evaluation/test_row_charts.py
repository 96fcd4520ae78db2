import xml.etree.ElementTree as ET

import pytest

from overlay.evaluation.row_charts import FoldRow, ForestRow, fold_chart, forest_chart, interval_bar


def cells(row: ET.Element) -> list[str]:
    return ["".join(cell.itertext()) for cell in row if cell.attrib.get("class") != "plot"]


def percent(mark: ET.Element, name: str) -> float:
    return float(mark.attrib[name].removesuffix("%"))


def test_a_forest_plot_colours_intervals_by_the_side_of_zero() -> None:
    rows = [
        ForestRow("a", 0.5, 0.25, 1.0, "p = 0.03"),
        ForestRow("<b>", -0.5, -1.0, 0.0),
        ForestRow("c", -0.5, -1, -0.1),
    ]
    table = ET.fromstring(forest_chart(rows, "macro-F1", "the reference"))
    body = next(iter(table.iter("tbody")))
    assert [cells(row) for row in body] == [
        ["a", "+0.500 (+0.250 to +1.000)", "p = 0.03"],
        ["<b>", "\u22120.500 (\u22121.000 to +0.000)", ""],
        ["c", "\u22120.500 (\u22121.000 to \u22120.100)", ""],
    ]
    assert [circle.attrib["class"] for circle in body.iter("circle")] == ["hit", "open", "miss"]
    # The strip reaches from -1.12 to 1.12: the extremes and 6 % of their distance on both sides.
    intervals = [line for line in body.iter("line") if "interval" in line.attrib["class"]]
    assert (percent(intervals[0], "x1"), percent(intervals[0], "x2")) == pytest.approx((61.16, 94.64), abs=0.01)
    assert [percent(line, "x1") for line in body.iter("line") if line.attrib["class"] == "axis"] == [50.0] * 3
    assert table.findtext("caption") == "difference in macro-F1 to the reference"


def test_of_a_loss_the_lower_side_is_better() -> None:
    table = ET.fromstring(forest_chart([ForestRow("a", -0.5, -1, -0.1)], "log loss", "b", lower_is_better=True))
    assert [circle.attrib["class"] for circle in table.iter("circle")] == ["hit"]
    assert table.findtext("caption") == "difference in log loss to b; lower is better"


def test_folds_are_dots_from_top_to_bottom_and_a_failed_one_is_left_out() -> None:
    rows = [FoldRow("a", [0.5, None, 1.0], 0.75, "chosen"), FoldRow("b", [0.6], 0.6)]
    table = ET.fromstring(fold_chart(rows, "accuracy"))
    body = next(iter(table.iter("tbody")))
    dots = [(percent(circle, "cx"), float(circle.attrib["cy"])) for circle in body.iter("circle")]
    # From 0.47 to 1.03.
    assert [y for _, y in dots] == [7, 25, 16]
    assert [x for x, _ in dots] == pytest.approx([5.36, 94.64, 23.21], abs=0.01)
    assert [title.text for title in body.iter("title")] == ["0: 0.500", "2: 1.000", "0: 0.600"]
    assert [cells(row) for row in body] == [["a", "0.750", "chosen"], ["b", "0.600", ""]]
    means = [percent(line, "x1") for line in body.iter("line") if line.attrib["class"] == "mean"]
    assert means == pytest.approx([50, 23.21], abs=0.01)


def test_equal_values_have_a_strip_too() -> None:
    table = ET.fromstring(fold_chart([FoldRow("a", [0.5, 0.5], 0.5)], "accuracy"))
    assert [percent(circle, "cx") for circle in table.iter("circle")] == [50, 50]


def test_an_interval_bar_has_a_place_for_every_possible_value() -> None:
    strip = ET.fromstring(interval_bar(0.5, 0.25, 1.0))
    lines = {line.attrib["class"]: (percent(line, "x1"), percent(line, "x2")) for line in strip.iter("line")}
    assert lines == {"axis": (1, 99), "interval hit": (25.5, 99)}
    assert [percent(circle, "cx") for circle in strip.iter("circle")] == [50]
