import xml.etree.ElementTree as ET

import pytest

from overlay.evaluation import svg


def test_a_scale_maps_both_ends_and_turns_over() -> None:
    down = svg.Scale(0, 10, 200, 100)
    assert [down(0), down(5), down(10)] == [200, 150, 100]
    assert svg.Scale(3, 3, 0, 50)(3) == 25


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.13, 0.1, [-0.1, -0.05, 0, 0.05, 0.1]),
        (0, 1.26, [0, 0.5, 1]),
        (1, 16, [5, 10, 15]),
    ],
)
def test_ticks_are_round_and_within_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert svg.round_ticks(low, high) == ticks


def test_texts_and_attributes_are_escaped() -> None:
    written = svg.circle(1.04, -0.01, 2.55, 'a "b"', note="<script> & more")
    circle = ET.fromstring(written)
    assert circle.attrib == {"class": 'a "b"', "cx": "1", "cy": "0", "r": "2.5"}
    assert [child.text for child in circle] == ["<script> & more"]
    assert ET.fromstring(svg.text(0, 0, "<b>", "label")).text == "<b>"
    assert ET.fromstring(svg.chart(10, 5, 'of "x"', [])).attrib == {
        "class": "chart",
        "viewBox": "0 0 10 5",
        "style": "max-width:10px",
        "role": "img",
        "aria-label": 'of "x"',
    }


def test_points_on_one_pixel_are_written_once() -> None:
    line = ET.fromstring(svg.polyline([(0, 0), (0.01, 0.02), (5, 1.25), (0, 0)], "line"))
    assert line.attrib["points"] == "0,0 5,1.2 0,0"


def test_a_plot_places_values_between_its_margins() -> None:
    plot = svg.Plot.create((100, 80), (5, 10, 20, 30), (0, 2), (0, 1))
    assert (plot.x(0), plot.x(2), plot.y(0), plot.y(1)) == (30, 90, 60, 5)
    assert ET.fromstring(plot.polyline([0, 1], [1, 0], "line")).attrib["points"] == "30,5 60,60"
    frame = ET.fromstring(f"<g>{plot.frame('time', 'height', [0, 1], [0.5])}</g>")
    assert [text.text for text in frame.iter("text")] == ["0", "1", "0.5", "time", "height"]
