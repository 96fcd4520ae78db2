"""Wrong requests of every verb: status 2, one line, and nothing is written."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from overlay.cli.main import main
from overlay.dataset.prepared import PreparedDataset
from overlay.models import model_file
from overlay.models.model_file import ModelCard

TINY = ["--model.weights", "none", "--model.arch", "resnet18", "--input.size", "32", "--tracking.mode", "disabled"]

REFUSED: dict[str, tuple[str, str]] = {
    "prepare: no such source": ("prepare nowhere --out {out}", "nowhere"),
    "prepare: a file as source": ("prepare {work}/one.png --out {out}", "is a file"),
    "prepare: one class": ("prepare {work}/one-class --out {out}", "only one class"),
    "prepare: too many folds": ("prepare {work}/classes --out {out} --split.folds 50", "50"),
    "prepare: no regular expression": (
        "prepare {work}/classes --out {out} --split.group_by (",
        "no regular expression",
    ),
    "prepare: groups of nothing": ("prepare {work}/classes --out {out} --split.group_by x(9+)", "matches no path"),
    "prepare: no such table": ("prepare {work}/classes --out {out} --labels.column no.csv:label", "no.csv"),
    "prepare: shares": ("prepare {work}/classes --out {out} --split.train 0.9", "add up to 1"),
    "prepare: no pixels": ("prepare {work}/classes --out {out} --max_pixels 0", "max_pixels"),
    "prepare: into a file": ("prepare {work}/classes --out {work}/one.png", "is a file; name a folder"),
    "prepare: into a file's folder": ("prepare {work}/classes --out {work}/one.png/out", "can't be written to"),
    "prepare: into a folder of images": ("prepare {work}/classes --out {work}/classes", "holds something else"),
    "train: no such dataset": ("train nowhere --out {out} {tiny}", "nowhere"),
    "train: a fold of no dataset": ("train {work}/classes --out {out} --fold 1 {tiny}", "no prepared dataset"),
    "train: no folds": ("train {dataset} --out {out} --fold 1 {tiny}", "has no folds"),
    "train: one class": ("train {work}/one-class --out {out} {tiny}", "only one class"),
    "train: batches for too many workers": (
        "train {dataset} --out {out} {tiny} --train.workers 2 --train.batch_size 16 --train.accumulate 4",
        "batches of 12 images leave 2 workers fewer than 2 at a time",
    ),
    "train: batches for too many parts": (
        "train {dataset} --out {out} {tiny} --train.batch_size 23 --train.accumulate 7",
        "batches of 12 images leave 1 workers",
    ),
    "train: too few images in a folder": (
        "train {work}/classes --out {out} {tiny} --train.batch_size 64 --train.accumulate 16",
        "batches of 16 images leave 1 workers",
    ),
    "train: precision": ("train {dataset} --out {out} {tiny} --train.precision fp16 --train.device cpu", "needs a GPU"),
    "train: batch statistics": (
        "train {dataset} --out {out} {tiny} --train.sync_batch_norm true --train.device cpu",
        "sync_batch_norm needs GPUs",
    ),
    "train: positive class": ("train {dataset} --out {out} {tiny} --calibration.positive cyst", "choose one of"),
    "train: positive class of a folder": (
        "train {work}/classes --out {out} {tiny} --calibration.positive cyst",
        "choose one of the classes a, b",
    ),
    "train: workers": ("train {dataset} --out {out} {tiny} --train.workers 64 --train.batch_size 128", "has 2 CPUs"),
    "train: weights": ("train {dataset} --out {out} {tiny} --model.weights nowhere.pth", "nowhere.pth"),
    "train: architecture": ("train {dataset} --out {out} {tiny} --model.arch resnet19", "resnet19"),
    "train: size": ("train {dataset} --out {out} {tiny} --model.arch vit_b_16 --input.size 100", "input.size"),
    "train: into something else": ("train {dataset} --out {work}/classes {tiny}", "holds something else"),
    "train: into a file": ("train {dataset} --out {work}/one.png {tiny}", "is a file; name a folder"),
    "evaluate: no such model": ("evaluate nowhere {dataset} --out {out}", "nowhere"),
    "evaluate: no such dataset": ("evaluate {model} nowhere --out {out}", "nowhere"),
    "evaluate: images in training": ("evaluate {work}/one.png {dataset} --out {out}", "one.png"),
    "evaluate: subgroups": ("evaluate {model} {dataset} --out {out} --subgroups no.csv:age", "no.csv"),
    "evaluate: other classes": ("evaluate {work}/other.pth {dataset} --out {out}", "class"),
    "evaluate: into something else": ("evaluate {model} {dataset} --out {work}/classes", "holds something else"),
    "evaluate: into a file": ("evaluate {model} {dataset} --out {work}/one.png", "is a file; name a folder"),
    "predict: no such model": ("predict nowhere {work}/classes --out {out}", "nowhere"),
    "predict: no model": ("predict {work}/one.png {work}/classes --out {out}", "one.png"),
    "predict: no such input": ("predict {model} nowhere --out {out}", "nowhere"),
    "predict: nothing to see": ("predict {model} {work}/empty --out {out}", "empty"),
    "predict: int8": ("predict {model} {work}/classes --out {out} --engine torch --precision int8", "int8"),
    "predict: contradiction": (
        "predict {model} {work}/classes --out {out} --retry_errors true --overwrite true",
        "one",
    ),
    "predict: into something else": ("predict {model} {work}/classes --out {work}/one-class", "holds something else"),
    "predict: into a file": ("predict {model} {work}/classes --out {work}/one.png", "is a file; name a folder"),
    "compare: no folds": ("compare {dataset} --archs resnet18,resnet34 --out {out}", "has no folds"),
    "compare: no candidates": ("compare {dataset} --candidates no.yaml --out {out}", "no.yaml"),
    "compare: one model": ("compare {dataset} {model} --out {out}", "model"),
    "compare: the same model": ("compare {dataset} {model} {work}/copy.pth --out {out}", "same model"),
    "compare: other classes": ("compare {dataset} {model} {work}/other.pth --out {out}", "knows the classes"),
    "compare: into something else": (
        "compare {dataset} {model} {work}/second.pth --out {work}/classes",
        "something else",
    ),
    "export: no such model": ("export nowhere --format onnx --out {out}.onnx", "nowhere"),
    "export: another ending": ("export {model} --format onnx --out {out}.txt", "doesn't end in .onnx"),
    "export: there already": ("export {model} --format safetensors --out {work}/x.safetensors", "is there already"),
    "demo: into something else": ("demo --out {work}/classes", "holds something else"),
    "demo: into a file": ("demo --out {work}/one.png", "is a file; name a folder"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images and model files; not to be written to."""
    folder = tmp_path_factory.mktemp("work")
    noise = np.random.default_rng(0)
    for place in ("classes/a", "classes/b", "one-class/a"):
        (folder / place).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(noise.integers(0, 256, (40, 40), np.uint8)).save(folder / place / f"{number}.png")
    (folder / "one.png").write_bytes((folder / "classes/a/0.png").read_bytes())
    (folder / "empty").mkdir()
    (folder / "x.safetensors").touch()
    for name, classes in (
        ("model", "benign malignant normal"),
        ("second", "benign malignant normal"),
        ("other", "x y z"),
    ):
        card = ModelCard("resnet18", tuple(classes.split()), 32, "pad", (0.5,) * 3, (0.2,) * 3, None, "", "", "")
        state = OrderedDict(torchvision.models.resnet18(num_classes=3).state_dict())
        model_file.save_model_file(folder / f"{name}.pth", state, card)
    (folder / "copy.pth").write_bytes((folder / "model.pth").read_bytes())
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(each): each.read_bytes() if each.is_file() else None for each in folder.rglob("*")}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_request_writes_nothing(
    case: str, work: Path, dataset: PreparedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line, message = REFUSED[case]
    places = {"work": work, "dataset": dataset.path, "model": work / "model.pth", "out": tmp_path / "new" / "out"}
    words = [word.format(**places, tiny="") for word in line.replace("{tiny}", " ".join(TINY)).split()]
    before = contents(work)
    capsys.readouterr()

    status = main(words)

    told = capsys.readouterr()
    assert status == 2, told
    last = told.err.splitlines()[-1]
    assert last.startswith(f"overlay {words[0]}: ")
    assert message in last
    assert "Traceback" not in told.err
    assert list(tmp_path.iterdir()) == []
    assert contents(work) == before
