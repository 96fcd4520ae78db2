import base64
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overlay.evaluation import metrics, report
from overlay.evaluation.audit_views import AuditView
from overlay.evaluation.curves import compute_curves
from overlay.evaluation.estimates import compute_evaluation
from overlay.evaluation.gallery import MistakePair
from overlay.evaluation.intervals import Estimate, PairedDifference
from overlay.evaluation.mask_audit import AuditRow, MaskAudit
from overlay.evaluation.report_data import (
    ConstantAnswer,
    DatasetFlow,
    DoubtedLabel,
    Inference,
    MaskOnly,
    OperatingResult,
    Protocol,
    ReportData,
    SeenImages,
    TrainingCurves,
)
from overlay.evaluation.subgroups import Subgroup, SubgroupTable

CLASSES = ("benign", "malignant", "normal")
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
    flow=DatasetFlow(41, 1, 0, 2, 38, {"benign": {"train": 20, "val": 4, "test": 2}}),
    overlay="fill, #ff3b30, opacity 0.35",
    model_overlay="fill, #ff3b30, opacity 0.35",
    missing_classes=(),
    inference=Inference("torch on cpu", "fp32", flips=False),
    versions={"overlay": "0.1.0", "torch": "2.15.0"},
)


HALF = Estimate(0.5, 0.2, 0.8, 6.0, 6, 6)


def report_data(labels: list[int] | None = None, classes: tuple[str, ...] = CLASSES) -> ReportData:
    truth = LABELS if labels is None else np.array(labels)
    mistakes = tuple(
        MistakePair(
            id=f"image {i}.png",
            label=classes[truth[i]],
            predicted=classes[PROBABILITIES[i].argmax()],
            confidence=float(PROBABILITIES[i].max()),
            seen=np.full((64, 64, 3), 40 * i, dtype=np.uint8),
            heat=np.full((64, 64, 3), 10 * i, dtype=np.uint8),
            inside=0.25,
            conflict=None,
        )
        for i in metrics.worst_mistakes(truth, PROBABILITIES).tolist()
    )
    evaluation = compute_evaluation(truth, PROBABILITIES, classes)
    curves = compute_curves(truth, PROBABILITIES, classes)
    constant = ConstantAnswer(classes[0], 1 / 3, 0.375)
    return ReportData("my-run", evaluation, PROTOCOL, constant, curves, mistakes=mistakes)


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
        if any(name in ("td", "th") for name, _ in self._open):
            self.rows[-1][-1] += data

    def pictures(self) -> list[Image.Image]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(";base64,")[2]))) for source in sources]


def show(data: ReportData) -> Page:
    return Page(report.render_report(data))


def test_the_page_shows_the_numbers_with_their_intervals() -> None:
    page = show(report_data())
    cards = {name: page.by_id[name] for name in ("accuracy", "macro_f1", "auroc")}
    assert cards == {"accuracy": "0.667", "macro_f1": "0.656", "auroc": "0.896"}
    assert "0.202 to 0.935" in page.text
    cells = [[row[0], *(cell.split()[0] for cell in row[1:])] for row in page.rows]
    assert ["malignant2 images", "0.667", "1.000", "0.800", "0.875"] in cells
    assert ["Macro mean", "0.722", "0.667", "0.656", "0.896"] in cells
    assert ["all", "28", "6", "6"] in cells
    assert ["benign", "20", "4", "2"] in cells
    assert "resnet101, evaluated on 6 images in 6 groups: the test split of phantoms" in page.text
    assert page.text.count("my-run") == 2  # the title of the window, and the heading


def test_the_verdict_is_of_the_tests() -> None:
    found = show(report_data()).by_id["verdict"]
    assert found.startswith("The model is right on 66.7\xa0% of 6 images (95 % interval ")
    assert found.endswith(" is not shown to be better than always answering benign (33.3\xa0%; p = 0.38).")
    better = replace(report_data(), constant=ConstantAnswer("benign", 1 / 3, 0.0004))
    assert show(better).by_id["verdict"].endswith(", more than always answering benign (33.3\xa0%; p <\xa00.001).")


def mask_only(difference: float, p: float) -> MaskOnly:
    gap = PairedDifference(difference, difference - 0.1, difference + 0.1, 0.0)
    return MaskOnly(HALF, HALF, gap, p, 4, 2, NUMBERS)


@pytest.mark.parametrize(
    ("difference", "p", "sentence"),
    [
        (-0.3, 0.01, "It is 30.0 percentage points below the shape of the mask alone (p = 0.010)."),
        (
            -0.3,
            0.2,
            "30.0 percentage points below the shape of the mask alone, but no difference is shown (p = 0.20).",
        ),
        (0.3, 0.01, "30.0 percentage points above the shape of the mask alone (p = 0.010), so it reads more than the"),
        (0.0, 1.0, "It is as good as the shape of the mask alone, and no difference is shown (p = 1.00)."),
    ],
)
def test_the_mask_is_held_against_the_model_by_the_paired_test(difference: float, p: float, sentence: str) -> None:
    page = show(replace(report_data(), mask_only=mask_only(difference, p)))
    assert sentence in page.by_id["verdict"]
    assert f"Mask shapes: {', '.join(NUMBERS)}, read by a random forest" in page.text


def audit(views: tuple[AuditView, ...]) -> MaskAudit:
    rows: Mapping[AuditView, AuditRow] = {
        view: AuditRow(HALF, PairedDifference(-0.1, -0.4, 0.2, 0.5), 0.041, 0.96) for view in views
    }
    return MaskAudit(6, HALF, rows, 1)


def test_the_audit_shows_each_view_beside_the_overlay_and_the_mask_shapes() -> None:
    data = replace(report_data(), audit=audit(("untinted", "mask", "blanked")), mask_only=mask_only(0.3, 0.2))
    page = show(replace(data, mask_only_lesions=mask_only(-0.1, 1.0)))
    table = {row[0]: [" ".join(cell.split()) for cell in row[1:] if cell.strip()] for row in page.rows if row}
    view = ["0.500 0.200 to 0.800", "\u22120.100 \u22120.400 to +0.200", "0.041", "96.0 %"]
    assert table["Image as evaluated6 images"] == ["0.500 0.200 to 0.800"]
    assert table["Overlay removedto within one grey level"] == view
    assert table["Mask aloneits overlay on plain grey"] == view
    assert table["Lesion blankedthe lesion plain grey beneath its overlay"] == view
    shapes = ["0.500 0.200 to 0.800", "\u22120.300 \u22120.400 to \u22120.200", "0.20"]
    assert table["Mask shapes, all images6 images; the model 0.800"] == shapes
    assert table["Mask shapes, only images with a lesion6 images; the model 0.400"][2] == "1.00"
    assert "with the lesion's pixels blanked, 96.0\xa0% of its answers stay." in page.by_id["verdict"]


def test_a_view_that_cannot_be_made_is_said_to_be_missing() -> None:
    contour = replace(PROTOCOL, overlay="contour, #ff3b30, 3 px")
    page = show(replace(report_data(), audit=audit(("mask", "blanked")), protocol=contour))
    assert "There is no row without the overlay: a contour hides the pixels beneath it." in page.text
    assert "Image or mask" not in show(report_data()).text


def test_cautions_come_first() -> None:
    text = "The model has seen 2 of these 6 images."
    page = show(replace(report_data(), cautions=(text,), seen=SeenImages(6, 2, 0, 40)))
    assert page.text.index(text) < page.text.index("The model is right on")
    assert "Seen images2 of 6 within 40 of 256 bits of a training or validation image" in page.text
    assert "cautions" not in show(report_data()).by_id


def test_the_operating_point_has_cards() -> None:
    point = OperatingResult("malignant", 0.31, 20, HALF, None, 4)
    page = show(replace(report_data(), operating=point))
    assert (page.by_id["sensitivity"], page.by_id["specificity"]) == ("0.500", "\N{EN DASH}")
    assert "The threshold 0.310 for malignant was chosen on the 20 validation images of that class; 4" in page.text


def test_mistakes_are_pairs_of_what_the_model_saw_and_the_evidence() -> None:
    data = report_data()
    conflicting = replace(data.mistakes[0], conflict="malignant")
    page = show(replace(data, mistakes=(conflicting, replace(data.mistakes[1], inside=None))))
    assert [np.asarray(picture).mean() for picture in page.pictures()] == pytest.approx([120, 30, 200, 50], abs=1)
    first, second = page.text.index("benign, called malignant / 70.0"), page.text.index("normal, called benign / 50.0")
    assert first < page.text.index("near-duplicate is malignant") < page.text.index("image 3.png") < second
    assert page.text.count("25.0 % of the map inside the mask") == 1
    assert "2 of 6 images were classified wrongly, most often benign called malignant (1), normal called" in page.text


def test_a_network_without_feature_maps_has_no_grad_cam_and_says_so() -> None:
    data = report_data()
    page = show(replace(data, mistakes=tuple(replace(pair, heat=None, inside=None) for pair in data.mistakes)))
    assert len(page.pictures()) == 2
    assert "without Grad-CAM, since resnet101 has no feature map near its end" in page.text


def test_a_page_without_mistakes_says_so() -> None:
    perfect = report_data(labels=PROBABILITIES.argmax(axis=1).tolist())
    assert "No image was classified wrongly." in show(perfect).text


def test_doubted_labels_are_listed_up_to_a_limit() -> None:
    doubts = tuple(DoubtedLabel(f"{i}.png", "benign", "malignant", 1 - i / 100) for i in range(30))
    page = show(replace(report_data(), doubts=doubts))
    assert "The model doubts 30 labels by confident learning" in page.text
    listed = [row for row in page.rows if row[1:3] == ["benign", "malignant"]]
    assert (len(listed), listed[0][3], listed[-1][0]) == (20, "1.000", "19.png")


def test_small_subgroups_are_grey_and_nothing_is_tested() -> None:
    groups = (Subgroup("old", 19, HALF, None), Subgroup("young", 20, HALF, HALF))
    data = replace(report_data(), subgroups=(SubgroupTable("age", groups),))
    html = report.render_report(data)
    assert html.count('<tr class="few">') == 1
    assert "Sensitivity" not in html
    page = show(replace(data, operating=OperatingResult("malignant", 0.31, 20, HALF, HALF, 4)))
    rows = {row[0]: [cell.split()[0] for cell in row[1:] if cell.strip()] for row in page.rows if row and row[0]}
    assert rows["old"] == ["19", "0.500", "\N{EN DASH}"]
    assert rows["young"] == ["20", "0.500", "0.500"]


def test_the_page_says_how_the_images_were_divided_and_the_numbers_computed() -> None:
    page = show(replace(report_data(), protocol=replace(PROTOCOL, configuration="train:\n  epochs: 3\n")))
    for fact in ("ab" * 32, "cd" * 32, "by image at random; seed 0", "224 x 224 pixels, squash", "torch 2.15.0"):
        assert page.text.count(fact) == 1
    assert "41 images listed 1 rejected 0 of 2 pairs of near-duplicates with two labels 38 groups, each" in page.text
    assert "epochs: 3" in page.text
    assert page.text.count("Research use, not a medical device") == 1
    dated = replace(report_data(), protocol=replace(PROTOCOL, date="2026-02-03"))
    assert "Date2026-02-03" in re.sub(r"\s+", "", show(dated).text)


def test_a_number_that_is_not_defined_is_not_invented() -> None:
    page = show(report_data(labels=[0, 1, 0, 0, 1, 1]))
    assert page.by_id["auroc"] == "\N{EN DASH}"
    (row,) = [row for row in page.rows if row[0] == "normal0 images"]
    assert [cell.split()[0] for cell in row[1:]] == ["0.000", "\N{EN DASH}", "0.000", "\N{EN DASH}"]


def full_report() -> ReportData:
    columns = ("train_loss", "val_loss", "train_accuracy", "val_accuracy", "val_macro_f1")
    history = {"epoch": [1.0, 2.0]} | {name: [0.5, 0.4] for name in columns}
    views: tuple[AuditView, ...] = ("untinted", "mask", "blanked")
    return replace(
        report_data(), training=TrainingCurves(history, 2), audit=audit(views), mask_only=mask_only(0.3, 0.2)
    )


def test_the_page_needs_nothing_from_outside() -> None:
    html = report.render_report(full_report())
    assert re.search(r"(https?:)?//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", html)) is None
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert "href" not in attributes
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/jpeg;")
            assert attributes["alt"]
    charts = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "role" in attributes]
    assert [name.split()[0] for name in charts if name] == [
        "Confusion",
        "ROC",
        "Reliability",
        "Accuracy",
        "Losses",
        "Accuracy",
    ]


def test_no_name_becomes_markup() -> None:
    name = "<script>alert('&')</script>"
    data = report_data(classes=(name, "b", "c"))
    mistake = replace(data.mistakes[0], id='"><img src=x onerror=y>', conflict=name)
    html = report.render_report(
        replace(data, title=name, mistakes=(mistake,), protocol=replace(PROTOCOL, dataset=name, split_rule=name))
    )
    page = Page(html)
    assert "<script" not in html
    assert {"onerror"}.isdisjoint(key for _, attributes in page.tags for key in attributes)
    assert page.text.count(name) >= 5


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed to show the page")
@pytest.mark.parametrize("width", [420, 1100])
def test_a_browser_shows_the_page_without_a_word_of_complaint(tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(report.render_report(full_report()), encoding="utf-8")
    shot = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"]
    options += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},4000", f"--screenshot={shot}"]
    command = [str(CHROMIUM), *options, "--enable-logging=stderr", (tmp_path / "report.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in shown.stderr  # a refused request, by the page's own policy, would stand there
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape == (4000, width, 3)
    # The ground is white from edge to edge, so nothing hangs over the right side; and the matrix's blue is there.
    assert (pixels[:, -4:] == 255).all()
    assert ((pixels[:, :, 2] > 180) & (pixels[:, :, 0] < 160)).sum() > 5000
