import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overlay.evaluation import figures, metrics, report
from overlay.evaluation.estimates import compute_evaluation
from overlay.evaluation.intervals import Estimate, PairedDifference
from overlay.evaluation.report_data import DatasetFlow, Inference, MaskOnly, Mistake, Protocol, ReportData

CLASSES = ["benign", "malignant", "normal"]
LABELS = np.array([0, 1, 2, 0, 1, 2])
PROBABILITIES = np.array(
    [[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.2, 0.7, 0.1], [0.0, 0.9, 0.1], [0.5, 0.1, 0.4]]
)
NUMBERS = ("area share", "height/width", "fill of its box", "perimeter²/area")
PROTOCOL = Protocol(
    model_file="Resnet_fineTuning.pth",
    model_sha256="ab" * 32,
    arch="resnet101",
    image_size=224,
    resize="squash",
    weights="imagenet",
    trained_on="cd" * 32,
    dataset="phantoms",
    fingerprint="cd" * 32,
    split="test",
    fold=None,
    folds=None,
    split_rule="by image at random",
    split_seed=0,
    split_images={"train": 28, "val": 6, "test": 6},
    flow=DatasetFlow(41, 1, 0, 2, 38, {}),
    overlay="fill, #ff3b30, opacity 0.35",
    model_overlay="fill, #ff3b30, opacity 0.35",
    missing_classes=(),
    inference=Inference("torch on cpu", "fp32", flips=False),
    versions={"overlay": "0.1.0", "torch": "2.15.0"},
)


def report_data(labels: list[int] | None = None, classes: list[str] = CLASSES) -> ReportData:
    truth = LABELS if labels is None else np.array(labels)
    evaluation = compute_evaluation(truth, PROBABILITIES, classes)
    mistakes = tuple(
        Mistake(
            id=f"image {i}.png",
            label=classes[truth[i]],
            predicted=classes[PROBABILITIES[i].argmax()],
            confidence=float(PROBABILITIES[i].max()),
            image=np.full((300, 600, 3), 40 * i, dtype=np.uint8),
        )
        for i in metrics.worst_mistakes(truth, PROBABILITIES).tolist()
    )
    picture = io.BytesIO()
    Image.new("RGB", (6, 6), "#08306b").save(picture, format="PNG")
    return ReportData("Six phantoms", evaluation, PROTOCOL, picture.getvalue(), mistakes=mistakes)


class Page(HTMLParser):
    """Text by the id of its element, all tags with their attributes, and all text outside the style."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.by_id: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()
        assert self._open == []
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in self.VOID:
            self._open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, name = self._open[-1] if self._open else ("", None)
        if tag == "style":
            return
        self.text += data
        if name:
            self.by_id[name] = data
        if tag in ("td", "th"):
            self.rows[-1][-1] += data

    def pictures(self) -> list[Image.Image]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(";base64,")[2]))) for source in sources]


def test_the_page_shows_the_numbers_with_their_intervals() -> None:
    page = Page(report.render_report(report_data()))
    assert page.by_id == {
        "accuracy": "0.667",
        "macro_f1": "0.656",
        "balanced_accuracy": "0.667",
        "auroc": "0.896",
    }
    assert "0.202 to 0.935" in page.text
    cells = [[cell.split() for cell in row] for row in page.rows]
    assert [cell[0] for cell in cells[1]] == ["benign", "0.500", "0.500", "0.500", "0.812", "2"]
    assert [cell[0] for cell in cells[2]] == ["malignant", "0.667", "1.000", "0.800", "0.875", "2"]
    assert [cell[0] for cell in cells[4]] == ["Macro", "0.722", "0.667", "0.656", "0.896", "6"]
    assert "2 of 6 were classified wrongly" in page.text
    assert "Always answering benign would be right for 33.3 % of these images" in page.text


def test_the_page_says_what_was_evaluated_and_how_it_was_divided() -> None:
    text = Page(report.render_report(report_data())).text
    assert "by image at random: train 28, val 6, test 6 images" in text
    for fact in ("ab" * 32, "cd" * 32, "pixels, squash", "fill, #ff3b30, opacity 0.35", "torch 2.15.0"):
        assert fact in text
    assert "Research use, not a medical device" in text
    assert "Date2026" not in text
    dated = replace(report_data(), protocol=replace(PROTOCOL, date="2026-02-03"))
    assert "Date2026-02-03" in Page(report.render_report(dated)).text


def test_the_page_needs_nothing_from_outside() -> None:
    data = report_data()
    html = report.render_report(replace(data, curves_png=data.confusion_png, roc_png=data.confusion_png))
    assert re.search(r"(https?:)?//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", html)) is None
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert "href" not in attributes
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/")
            assert attributes["alt"]
    assert [picture.format for picture in page.pictures()] == ["PNG", "PNG", "JPEG", "JPEG", "PNG"]


def test_mistakes_are_small_pictures_with_both_classes_and_the_confidence() -> None:
    page = Page(report.render_report(report_data()))
    thumbnails = page.pictures()[1:]
    assert [picture.size for picture in thumbnails] == [(240, 120), (240, 120)]
    assert [np.asarray(picture).mean() for picture in thumbnails] == pytest.approx([120, 200], abs=1)
    assert page.text.index("benign → malignant, 70.0") < page.text.index("normal → benign, 50.0")
    assert "image 3.png" in page.text


def test_a_page_without_mistakes_says_so() -> None:
    perfect = report_data(labels=PROBABILITIES.argmax(axis=1).tolist())
    assert "No image was classified wrongly." in Page(report.render_report(perfect)).text


def test_pictures_that_are_not_shown_are_said_to_be_missing() -> None:
    assert (
        "The images are not shown in this page." in Page(report.render_report(replace(report_data(), mistakes=()))).text
    )


def mask_only(difference: float, p: float) -> MaskOnly:
    estimate = Estimate(0.5, 0.2, 0.8, 6.0, 6, 6)
    gap = PairedDifference(difference, difference - 0.1, difference + 0.1, 0.0)
    return MaskOnly(estimate, estimate, gap, p, 4, 2, NUMBERS)


@pytest.mark.parametrize(
    ("difference", "p", "sentence"),
    [
        (-0.3, 0.01, "the masks alone tell the classes apart better than this model does."),
        (-0.3, 0.2, "these images do not show that the model reads more than the masks, nor less."),
        (0.3, 0.01, "The model is 30.0 percentage points above (20.0 to 40.0)"),
    ],
)
def test_the_masks_alone_stand_beside_the_model_by_the_paired_test(difference: float, p: float, sentence: str) -> None:
    page = Page(report.render_report(replace(report_data(), mask_only=mask_only(difference, p))))
    assert page.by_id["mask_accuracy"] == "0.500"
    assert f"4 numbers of each mask ({', '.join(NUMBERS)})" in page.text
    assert f"The model alone is right on 4 images, the masks alone on 2 (p = {p:.2g}, exact group flips" in page.text
    assert sentence in page.text


def test_masks_that_were_not_drawn_are_not_held_against_the_model() -> None:
    bare = replace(PROTOCOL, overlay="none")
    data = replace(report_data(), protocol=bare, mask_only=mask_only(-0.3, 0.01))
    assert "The masks are not drawn on these images" in Page(report.render_report(data)).text


def test_a_number_that_is_not_defined_is_not_invented() -> None:
    page = Page(report.render_report(report_data(labels=[0, 1, 0, 0, 1, 1])))
    assert page.by_id["auroc"] == "n/a"
    assert [cell.split()[0] for cell in page.rows[3]] == ["normal", "0.000", "n/a", "0.000", "n/a", "0"]
    assert "Never seen or never predicted here: normal;" in page.text


def test_no_name_becomes_markup() -> None:
    name = "<script>alert('&')</script>"
    data = report_data(classes=[name, "b", "c"])
    mistake = replace(data.mistakes[0], id='"><img src=x onerror=y>')
    html = report.render_report(
        replace(data, title=name, mistakes=(mistake,), protocol=replace(PROTOCOL, dataset=name, split_rule=name))
    )
    page = Page(html)
    assert "<script" not in html
    assert {"onerror"}.isdisjoint(key for _, attributes in page.tags for key in attributes)
    assert page.rows[1][0] == name
    assert page.text.count(name) >= 5


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed to show the page")
@pytest.mark.parametrize("width", [420, 1100])
def test_a_browser_shows_the_page_without_a_word_of_complaint(tmp_path: Path, width: int) -> None:
    data = report_data()
    data = replace(data, confusion_png=figures.draw_confusion_matrix(data.evaluation))
    (tmp_path / "report.html").write_text(report.render_report(data), encoding="utf-8")
    shot = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400", f"--screenshot={shot}"]
    command = [str(CHROMIUM), *options, "--enable-logging=stderr", (tmp_path / "report.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr  # a refused request, by the page's own policy, would stand there
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (2400, width, 3)
    # The ground is white from edge to edge, so nothing hangs over the right side; and the matrix's blue is there.
    assert (pixels[:, -4:] == 255).all()
    assert ((pixels[:, :, 2] > 90) & (pixels[:, :, 0] < 20)).sum() > 5000
