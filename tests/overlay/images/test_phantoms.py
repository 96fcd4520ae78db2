import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from overlay.evaluation.metrics import mask_only_answers
from overlay.images import masks, phantoms


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_busis(tmp_path: Path) -> None:
    phantoms.write_phantoms(tmp_path, images_per_class={"benign": 12, "malignant": 2, "normal": 1}, seed=0)
    names = set(digests(tmp_path))
    expected = {
        f"{name} ({index})"
        for name, count in (("benign", 12), ("malignant", 2), ("normal", 1))
        for index in range(1, count + 1)
    }
    second = {name for name in names if name.endswith("_mask_1.png")}
    files = {f"{stem.split()[0]}/{stem}{end}.png" for stem in expected for end in ("", "_mask")}
    assert names - second == files
    assert second
    assert all(name.startswith("benign/") for name in second)
    for name in names:
        with Image.open(tmp_path / name) as picture:
            assert picture.mode == ("1" if "_mask" in name else "RGB")
            assert picture.format == "PNG"
            with Image.open(tmp_path / (name.split(")")[0] + ").png")) as image:
                assert picture.size == image.size


def test_the_seed_decides_and_the_count_changes_no_earlier_image(tmp_path: Path) -> None:
    phantoms.write_phantoms(tmp_path / "two", images_per_class=2, seed=5)
    phantoms.write_phantoms(tmp_path / "three", images_per_class=3, seed=5)
    phantoms.write_phantoms(tmp_path / "other", images_per_class=2, seed=6)
    two, three, other = (digests(tmp_path / name) for name in ("two", "three", "other"))
    assert two.items() < three.items()
    assert all(two[name] != other[name] for name in two.keys() & other.keys() if "_mask" not in name)
    assert len({digest for name, digest in three.items() if "_mask" not in name}) == 9


def lesions(name: phantoms.PhantomClass, count: int) -> list[tuple[masks.MaskNumbers, float]]:
    """Shape of the first lesion, and its mean brightness against that of all pixels outside, of some phantoms."""
    found = []
    for index in range(1, count + 1):
        image, (lesion, *_) = phantoms.draw_phantom(name, seed=1, index=index)
        numbers = masks.measure_mask(lesion)
        assert numbers is not None
        assert numbers.lesions == 1
        found.append((numbers, float(image[lesion].mean() / image[~lesion].mean())))
    return found


def test_lesions_have_their_classs_signs() -> None:
    """Malignant lesions are darker, and mostly taller and more spiculated; the shapes overlap."""
    benign, malignant = lesions("benign", 24), lesions("malignant", 24)
    assert all(0.45 < brightness < 0.95 for _, brightness in benign)
    assert all(brightness < 0.55 for _, brightness in malignant)
    for number in ("aspect", "compactness"):
        smooth, spiculated = (sorted(getattr(shape, number) for shape, _ in found) for found in (benign, malignant))
        assert smooth[12] < spiculated[12]
        assert smooth[-1] > spiculated[4]
        assert spiculated[0] < smooth[-4]


def test_a_normal_image_has_an_empty_mask() -> None:
    for index in range(1, 4):
        _, [nothing] = phantoms.draw_phantom("normal", seed=1, index=index)
        assert not nothing.any()


@pytest.mark.slow
def test_masks_alone_tell_the_classes_apart_less_well_than_the_pixels_do() -> None:
    numbers, labels, inside = [], [], []
    classes: tuple[phantoms.PhantomClass, ...] = ("benign", "malignant")
    for label, name in enumerate(classes):
        for shape, brightness in lesions(name, 60):
            numbers.append((shape.area_share, shape.aspect, shape.extent, shape.compactness))
            labels.append(label)
            inside.append(brightness)
    train = np.arange(120) % 2 == 0
    table, truth = np.array(numbers), np.array(labels)
    answers = mask_only_answers(table[train], truth[train], table[~train])
    assert 0.55 < (answers == truth[~train]).mean() < 0.85
    threshold = np.median(inside)
    assert ((np.array(inside) < threshold) == (truth == 1)).mean() > 0.9


@pytest.mark.parametrize(("name", "brighter"), [("benign", True), ("malignant", False)])
def test_what_lies_behind_a_lesion(name: phantoms.PhantomClass, brighter: bool) -> None:
    ratios = []
    for index in range(1, 13):
        image, found = phantoms.draw_phantom(name, seed=2, index=index)
        rows, columns = np.nonzero(found[0])
        behind = slice(rows.max() + 6, rows.max() + 40)
        middle = int(columns.mean())
        # Beside it at the same depth, beyond the lesion's own width.
        beside = np.r_[0 : max(columns.min() - 10, 1), min(columns.max() + 10, image.shape[1] - 1) : image.shape[1]]
        ratios.append(image[behind, middle - 8 : middle + 8].mean() / image[behind][:, beside].mean())
    assert (np.median(ratios) > 1.1) if brighter else (np.median(ratios) < 0.8)


def test_sizes_vary_within_300_to_600() -> None:
    shapes = {phantoms.draw_phantom("normal", seed=0, index=index)[0].shape for index in range(1, 9)}
    assert len(shapes) == 8
    assert all(300 <= side <= 600 for shape in shapes for side in shape[:2])
    assert all(shape[2] == 3 for shape in shapes)
