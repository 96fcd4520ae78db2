"""Layouts of datasets as they are met: the files of a source, from a disk and a zip, and what becomes of them."""

import tempfile
import zipfile
from pathlib import Path

import pytest

from overlay.config import Layout, MaskNames
from overlay.errors import RequestError
from overlay.sources.labelled import ClassCounts, ListingOptions, list_labelled
from tests.overlay.storage.test_walk import make

CLASSES = ("benign", "malignant")
NORMAL = ("NFC", "\u00e9")
DECOMPOSED = "e\u0301"


def both(*patterns: str, numbers: int = 3) -> list[str]:
    """Return the names by patterns for each class, C, and each number, N."""
    return [
        pattern.replace("C", label).replace("N", str(number))
        for label in CLASSES
        for number in range(numbers)
        for pattern in patterns
    ]


def outcome(source: Path, options: ListingOptions) -> dict[str, tuple[str | None, str | None, int]]:
    """Return usable image -> label, split and number of masks; the name without its folders."""
    with tempfile.TemporaryDirectory() as folder:
        listing = list_labelled([str(source)], options, Path(folder))
        counts, found = ClassCounts(), {}
        for ref, _ in listing.read():
            counts.add(ref)
            if ref.reason is None:
                found[ref.id] = (ref.label, ref.split, len(ref.masks))
        if options.class_folders:
            counts.check([str(source)])
    return found


def check_both(
    tmp_path: Path, names: list[str], options: ListingOptions
) -> dict[str, tuple[str | None, str | None, int]]:
    """List a folder and a zip of the same files, and return the outcome, which is the same."""
    folder = make(tmp_path / "source", *names)
    with zipfile.ZipFile(tmp_path / "source.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    found = outcome(folder, options)
    assert outcome(tmp_path / "source.zip", options) == found
    return found


RECOGNISED = {
    "BUSI": (both("C/C (N).png", "C/C (N)_mask.png", "C/C (N)_mask_1.png"), 2),
    "BUSI in a wrapping folder": (both("Dataset_BUSI_with_GT/C/C (N).png", "Dataset_BUSI_with_GT/C/C (N)_mask.png"), 1),
    "finished overlays": (both("C/xN.png"), 0),
    "endings of several kinds and cases": (both("C/xN.JPG", "C/xN_MASK.Png"), 1),
    "BrEaST: _tumor": (both("C/caseN.png", "C/caseN_tumor.png"), 1),
    "ISIC: _segmentation": (both("C/ISIC_N.jpg", "C/ISIC_N_segmentation.png"), 1),
    "hyphens": (both("C/x-N.png", "C/x-N-mask.png"), 1),
    "_gt": (both("C/xN.bmp", "C/xN_gt.bmp"), 1),
    "spaces, as in BUID": (both("C/N C Image.bmp", "C/N C Mask.tif"), 1),
    "prefixes": (both("C/xN.png", "C/mask_xN.png"), 1),
    "prefixes of both": (both("C/img_N.png", "C/mask_N.png"), 1),
    "numbered words": (both("C/img00N.png", "C/mask00N.png"), 1),
    "parts of a WebDataset": (both("C/N.image.png", "C/N.mask.png"), 1),
    "a folder a case": (both("C/N-C/image.png", "C/N-C/mask.png"), 1),
    "images and masks in each class": (both("C/images/xN.png", "C/masks/xN.png"), 1),
    "img and mask": (both("C/img/xN.png", "C/mask/xN.png"), 1),
    "masks below the images": (both("C/xN.png", "C/masks/xN.png"), 1),
    "GT beside a folder of any name": (both("C/US/xN.png", "C/GT/xN.png"), 1),
    "UDIAT: original and GT": (both("C/original/xN.png", "C/GT/xN.png"), 1),
    "label": (both("C/image/xN.png", "C/label/xN.png"), 1),
    "annotations": (both("C/images/xN.png", "C/annotations/xN.png"), 1),
    "CVC: Ground Truth": (both("C/Original/xN.tif", "C/Ground Truth/xN.tif"), 1),
    "class_masks beside class": (both("C/xN.png", "C_masks/xN.png"), 1),
    "class_images and class_masks": (both("C_images/xN.png", "C_masks/xN.png"), 1),
    "masks-class beside class": (both("C/xN.png", "masks-C/xN_mask.png"), 1),
    "parallel trees": (both("images/C/xN.png", "masks/C/xN.png"), 1),
    "parallel trees in a wrapping folder": (both("set/img/C/xN.png", "set/gt/C/xN_gt.png"), 1),
    "parallel trees of patients": (both("images/C/CN/x.png", "masks/C/CN/x.png"), 1),
    "patients": (both("C/pN-C/x.png", "C/pN-C/x_mask.png"), 1),
}


@pytest.mark.parametrize("layout", RECOGNISED)
def test_masks_are_recognised(layout: str, tmp_path: Path) -> None:
    names, masks = RECOGNISED[layout]
    found = check_both(tmp_path, names, ListingOptions())
    assert len(found) * (1 + masks) == len(names)
    for id, (label, split, count) in found.items():
        assert f"{label}/" in id or f"{label}_images/" in id
        assert (split, count) == (None, masks)


def test_busbra(tmp_path: Path) -> None:
    names = [f"BUSBRA/{name}" for n in range(3) for name in (f"Images/bus_000{n}-l.png", f"Masks/mask_000{n}-l.png")]
    found = check_both(tmp_path, [*names, "BUSBRA/bus_data.csv"], ListingOptions(class_folders=False))
    assert list(found.values()) == [(None, None, 1)] * 3


@pytest.mark.parametrize("top", ["", "set/"])
@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train/C", "val/C", "test/C"], ["train", "val", "test"]),
        (["Training/C", "validation/C", "Testing/C"], ["train", "val", "test"]),
        (["train_set/C", "val_set/C", "test_set/C"], ["train", "val", "test"]),
        (["train/C", "test/C"], ["train", "test"]),
        (["C/train", "C/valid", "C/test"], ["train", "val", "test"]),
        (["train/images/C", "test/images/C"], ["train", "test"]),
        (["images/train/C", "images/test/C"], ["train", "test"]),
        (["fold0/C", "fold1/C", "fold2/C"], ["fold 0", "fold 1", "fold 2"]),
        (["split_1/C", "split_2/C", "split_3/C"], ["fold 0", "fold 1", "fold 2"]),
        (["C/Fold 1", "C/Fold 2", "C/Fold 3"], ["fold 0", "fold 1", "fold 2"]),
    ],
)
def test_splits_and_folds_are_honoured(tmp_path: Path, top: str, folders: list[str], splits: list[str]) -> None:
    names = [name for number, folder in enumerate(folders) for name in both(f"{top}{folder}/x{number}.png", numbers=1)]
    found = check_both(tmp_path, names, ListingOptions())
    number = {split: str(place) for place, split in enumerate(splits)}
    assert len(found) == len(names)
    for id, (label, split, _) in found.items():
        assert label is not None
        assert label in id
        assert split is not None
        assert id.endswith(f"x{number[split]}.png")


def test_splits_of_images_and_masks(tmp_path: Path) -> None:
    names = [
        name for split in ("train", "test") for name in both(f"{split}/images/C/xN.png", f"{split}/masks/C/xN.png")
    ]
    found = check_both(tmp_path, names, ListingOptions())
    assert set(found.values()) == {(label, split, 1) for label in CLASSES for split in ("train", "test")}


def test_splits_of_unlabelled_images_for_a_table(tmp_path: Path) -> None:
    names = ["set/train/images/1.png", "set/train/masks/1.png", "set/test/images/2.png", "set/test/masks/2.png"]
    found = check_both(tmp_path, names, ListingOptions(class_folders=False))
    assert {id[-5:]: each for id, each in found.items()} == {"1.png": (None, "train", 1), "2.png": (None, "test", 1)}


REFUSED = {
    "masks without an image of their name": (
        both("C/aN.png", "C_masks/bN.png"),
        r"the folder benign_masks beside benign",
    ),
    "masks of no class": ([*both("C/xN.png"), "benign_old_masks/y.png"], r"the folder benign_old_masks where class"),
    "an unknown suffix": (
        both("C/xN.png", "C/xN_foo.png"),
        r"6 of 12 images have .* '_foo' added; .* masks\.suffix _foo",
    ),
    "an unknown prefix": (
        both("C/xN.png", "C/foo-xN.png"),
        r"6 of 12 images have .* 'foo-' added; .* masks\.prefix foo-",
    ),
    "sites": (both("siteA/C/xN.png", "siteB/C/xN.png"), r"the same subfolders, benign, malignant, in each of .* 2 for"),
    "sites, of which one lacks a class": (
        [*both("a/C/xN.png"), "b/benign/1.png"],
        r"the same subfolders, benign, in each",
    ),
    "sides of the body": (
        both("C/left/N.png", "C/right/N.png"),
        r"subfolders, left, right, .*class_level which .*: 1 for benign",
    ),
    "case": (["Benign/1.png", "benign/2.png", "x/1.png"], r"the classes Benign and benign differ in case only"),
    "train alone with val": (both("train/C/N.png", "val/C/N.png"), r"the splits train, val and none for test"),
    "splits and more": (
        both("train/C/N.png", "test/C/N.png", "external/C/N.png"),
        r"test, train, splits .* external; take",
    ),
    "splits below one class": (
        [*both("C/train/N.png", "C/test/N.png"), "other/1.png"],
        r"splits by .* beside them images",
    ),
    "a test split without classes": ([*both("train/C/N.png"), "test/1.png"], r"no class folders in test"),
    "two train folders": (both("train/C/N.png", "training/C/N.png", "test/C/N.png"), r"several folders for one split"),
    "two folds": (both("fold0/C/N.png", "fold1/C/N.png"), r"not 3 or more, numbered"),
    "a gap": (both("fold0/C/N.png", "fold1/C/N.png", "fold3/C/N.png"), r"not 3 or more, numbered"),
    "BreakHis: splits in folds": (
        [n for k in (1, 2, 3) for n in both(f"fold{k}/train/C/N.png", f"fold{k}/test/C/N.png")],
        r"the folds fold1, fold2, fold3 with test, train in them",
    ),
    "augmented beside images": (
        both("images/C/N.png", "augmented/C/N.png"),
        r"the folder images and beside it augmented",
    ),
    "no classes": (["images/1.png", "masks/1.png"], r"has images but no class folders"),
    "one class": (["set/benign/1.png"], r"only one class, benign"),
    "two conventions": (
        both("C/xN.png", "C/xN_mask.png", "C/xN_gt.png"),
        r"masks by two conventions \(name gt and name mask\)",
    ),
    "names of two images": (both("C/img_N.png", "C/scan_N.png", "C/mask_N.png"), r"image without a mask, where others"),
}


@pytest.mark.parametrize("layout", REFUSED)
def test_unknown_layouts_are_refused_by_name(layout: str, tmp_path: Path) -> None:
    names, message = REFUSED[layout]
    with pytest.raises(RequestError, match=message) as caught:
        check_both(tmp_path, names, ListingOptions())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("patterns", "masks"),
    [
        (("C/xN.png", "C/xN_roi2.tif"), MaskNames(suffix="_ROI")),
        (("C/xN.png", "C/seg-xN.png"), MaskNames(prefix="seg-")),
        (("C/xN.png", "C/\u00e9-xN.png"), MaskNames(prefix=f"{DECOMPOSED}-")),
        (("C/scans/xN.png", "C/ROI/xN.png"), MaskNames(folder="roi")),
        (("images/C/xN.png", "drawn/C/xN_d.png"), MaskNames(suffix="_d", folder="drawn")),
    ],
)
def test_the_options_say_which_files_are_masks(tmp_path: Path, patterns: tuple[str, ...], masks: MaskNames) -> None:
    found = check_both(tmp_path, both(*patterns), ListingOptions(masks=masks))
    assert sorted(found.values()) == [(label, None, 1) for label in CLASSES for _ in range(3)]


def test_the_options_replace_what_is_recognised(tmp_path: Path) -> None:
    names = both("C/xN.png", "C/xN_flip.png", "C/xN_tumor.png")
    found = check_both(tmp_path, names, ListingOptions(masks=MaskNames(suffix="_mask")))
    assert len(found) == len(names)
    assert {count for _, _, count in found.values()} == {0}


def test_numbered_patients_of_each_class_are_no_classes(tmp_path: Path) -> None:
    found = check_both(tmp_path, both("C/N/x.png", numbers=21), ListingOptions())
    assert sorted(found.values()) == [(label, None, 0) for label in CLASSES for _ in range(21)]


def test_the_level_of_the_classes(tmp_path: Path) -> None:
    names = both("siteA/C/N.png", "siteB/C/N.png")
    assert set(check_both(tmp_path, names, ListingOptions(layout=Layout(2))).values()) == {
        (label, None, 0) for label in CLASSES
    }
    at_the_top = outcome(tmp_path / "source", ListingOptions(layout=Layout(1)))
    assert set(at_the_top.values()) == {(label, None, 0) for label in ("siteA", "siteB")}
    with pytest.raises(RequestError, match=r"has 2 levels of folders, and layout\.class_level is 3"):
        outcome(tmp_path / "source", ListingOptions(layout=Layout(3)))
    split = make(tmp_path / "split", *both("train/a/C/N.png", "test/a/C/N.png"))
    assert set(outcome(split, ListingOptions(layout=Layout(3))).values()) == {
        (label, side, 0) for label in CLASSES for side in ("train", "test")
    }


def test_forms_of_unicode_are_paired_and_make_one_class(tmp_path: Path) -> None:
    names = [f"\u00e9/\u00e9{n}.png" for n in range(3)] + [f"\u00e9/{DECOMPOSED}{n}_mask.png" for n in range(3)]
    names += ["b/images/\u00e9.png", f"b/masks/{DECOMPOSED}.png", f"{DECOMPOSED}/x.png", f"{DECOMPOSED}/x_mask.png"]
    found = check_both(tmp_path, names, ListingOptions())
    assert sorted(found.values()) == [("b", None, 1)] + [("\u00e9", None, 1)] * 4


def test_sources_of_different_splits_are_refused(tmp_path: Path) -> None:
    divided = make(tmp_path / "a", *both("train/C/N.png", "test/C/N.png"))
    whole = make(tmp_path / "b", *both("C/N.png"))
    with pytest.raises(RequestError, match=rf"{divided} has the folders test, train, and .*{whole} has no splits"):
        list_labelled([str(divided), str(whole)], ListingOptions(), tmp_path)


def test_what_overlay_wrote_is_left_out_and_named(tmp_path: Path) -> None:
    make(tmp_path, *both("C/N.png"), "run/config.yaml", "run/run.json", "run/curves.png", "run/evaluation/x.png")
    make(tmp_path, "out/d/dataset.json", "out/d/manifest.parquet", "out/d/data/x.png", "out/d/contact_sheet.png")
    make(tmp_path, "half/.prepare/request.json", "half/duplicates.png", "p/request.json", "p/manifest/x.png")
    make(tmp_path, "e/metrics.json", "e/predictions.parquet", "e/confusion_matrix.png", "@eaDir/x.png", ".ipynb/x.png")
    with tempfile.TemporaryDirectory() as folder:
        listing = list_labelled([str(tmp_path)], ListingOptions(), Path(folder))
        assert sorted(ref.id for ref, _ in listing.read()) == sorted(both("C/N.png"))
    assert sorted(listing.skipped) == ["e", "half", "out/d", "p", "run"]
    assert listing.passed_over.total() == 2
    with pytest.raises(RequestError, match=rf"source {tmp_path}/run is a training run that Overlay wrote"):
        list_labelled([str(tmp_path / "run")], ListingOptions(), tmp_path)
