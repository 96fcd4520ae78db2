from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overlay.config import Masks, Prepare, Split
from overlay.errors import RequestError
from overlay.images.ref import ImageRef
from overlay.preparation.division import check_given_split
from overlay.preparation.listing import list_sources
from overlay.sources.class_layout import ClassLayout, recognise_layout

SPLITS = recognise_layout(["train/a", "val/a", "test/a"])
TRAIN_TEST = recognise_layout(["train/a", "test/a"])
FOLDS = recognise_layout(["fold1/a", "fold2/a", "fold3/a"])


@pytest.mark.parametrize("layout", [SPLITS, TRAIN_TEST, FOLDS])
@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split(folds=5), r"split\.folds is 5, and the sources are divided already, into .*"),
        (Split(0.6, 0.2, 0.2), r"split\.train is 0\.6, and the sources are divided already, into .*"),
        (Split(column="t.csv:split"), r"split\.column is t\.csv:split, and the sources are divided already, into .*"),
    ],
)
def test_another_split_beside_that_of_the_folders_is_refused(layout: ClassLayout, split: Split, message: str) -> None:
    with pytest.raises(RequestError, match=message + ", ".join(sorted(layout.splits))):
        check_given_split(split, layout)


def test_groups_may_stand_beside_the_split_of_the_folders_and_a_seed_where_val_is_drawn() -> None:
    assert not check_given_split(Split(folds=5), recognise_layout(["a", "b"]))
    assert check_given_split(Split(group_by="p"), SPLITS)
    assert check_given_split(Split(group_by="p", seed=3), TRAIN_TEST)
    for layout in (SPLITS, FOLDS):
        with pytest.raises(RequestError, match=r"split\.seed is 3"):
            check_given_split(Split(seed=3), layout)


def save(file: Path, seed: int, mask: tuple[int, int, int] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
    if mask is not None:
        pixels[:] = 0
        pixels[5:10, 5:10] = mask
    Image.fromarray(pixels).save(file)


def listed(config: Prepare, folder: Path) -> list[ImageRef]:
    manifest = list_sources(config, folder, lambda _: None).manifest.manifest
    return sorted(ref for group in range(manifest.groups) for ref in manifest.read_group(group))


def test_the_split_of_the_folders_is_in_the_manifest(tmp_path: Path) -> None:
    for number, split in enumerate(("Train", "val", "test_set")):
        for label in "ab":
            save(tmp_path / "set" / split / label / f"{number}.png", number)
    refs = listed(Prepare([str(tmp_path / "set")], "unused"), tmp_path)
    assert Counter((ref.split, ref.label) for ref in refs) == {
        (s, c): 1 for s in ("train", "val", "test") for c in "ab"
    }


GREEN, RED = (0, 255, 0), (255, 0, 0)


def test_colours_of_masks_are_classes(tmp_path: Path) -> None:
    colours = {"a": GREEN, "b": RED, "c": (0, 0, 0), "d": (0, 0, 254), "e": GREEN, "f": RED, "g": GREEN, "h": RED}
    for number, (name, colour) in enumerate(colours.items()):
        save(tmp_path / "set" / "images" / f"{name}.png", number)
        save(tmp_path / "set" / "masks" / f"{name}.png", number, colour)
    both = np.zeros((20, 30, 3), np.uint8)
    both[:5], both[9:] = GREEN, RED
    Image.fromarray(both).save(tmp_path / "set" / "masks" / "h.png")
    save(tmp_path / "set" / "images" / "i.png", 9)
    for number in range(10, 14):
        save(tmp_path / "set" / "images" / f"{number}.png", number)
        save(tmp_path / "set" / "masks" / f"{number}.png", number, GREEN if number % 2 else RED)
    masks = Masks(colors="#00ff00=benign, #FF0000=malignant")
    found = {
        ref.id[7:-4]: (ref.label, ref.reason)
        for ref in listed(Prepare([str(tmp_path / "set")], "o", masks=masks), tmp_path)
    }
    assert {name: label for name, (label, reason) in found.items() if reason is None} == {
        **{"a": "benign", "b": "malignant", "e": "benign", "f": "malignant", "g": "benign"},
        **{"10": "malignant", "11": "benign", "12": "malignant", "13": "benign"},
    }
    assert {name: reason for name, (_, reason) in found.items() if reason} == {
        "c": "mask of the colour #000000: masks.colors doesn't name it",
        "d": "mask of the colour #0000fe: masks.colors doesn't name it",
        "h": "mask of several classes: benign, malignant",
        "i": "image without a mask, where others of its source have one",
    }


@pytest.mark.parametrize(
    ("colors", "message"),
    [
        ("green=benign", r"masks\.colors has 'green=benign'; give pairs such as"),
        ("#00ff00=a,#00FF00=b", r"masks\.colors names #00FF00 twice"),
        ("#00ff00=a", r"of one class; a classifier needs two or more"),
        ("", r"masks\.colors has ''; give pairs"),
    ],
)
def test_colours_that_are_wrong(colors: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Masks(colors=colors)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_a_class_of_masks_is_refused(tmp_path: Path, kind: str) -> None:
    for number in range(4):
        for label in "ab":
            save(tmp_path / "set" / label / f"{number}.png", number + ord(label))
        mask = np.zeros((64, 64), np.uint8)
        mask[8:24, 16:32] = 255 * (number > 0)  # the first is empty
        (tmp_path / "set" / "drawn").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "set" / "drawn" / f"{number}.{kind}")
    with pytest.raises(RequestError, match=r"the images of class drawn, such as drawn/\d\.\w+, have two values only"):
        listed(Prepare([str(tmp_path / "set")], "unused"), tmp_path)
