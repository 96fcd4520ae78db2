import random

import pytest

from overlay.sources.mask_pairing import pair_in_steps
from tests.overlay.sources.pairing import pair_masks


def test_class_folders_of_finished_overlays() -> None:
    pairing = pair_masks(["benign/a.png", "malignant/deep/b.JPG"])
    assert pairing.images == {"benign/a.png": (), "malignant/deep/b.JPG": ()}
    assert pairing.rejected == {}


def test_busi_unites_all_masks_of_an_image() -> None:
    names = [
        "benign/benign (4)_mask_1.png",
        "benign/benign (4).png",
        "benign/benign (4)_mask.png",
        "benign/benign (40).png",
        "benign/benign (40)_mask.png",
    ]
    pairing = pair_masks(names)
    assert pairing.images == {
        "benign/benign (4).png": ("benign/benign (4)_mask.png", "benign/benign (4)_mask_1.png"),
        "benign/benign (40).png": ("benign/benign (40)_mask.png",),
    }
    assert pairing.rejected == {}


@pytest.mark.parametrize(
    "mask", ["benign/masks/x.png", "benign/mask/x_mask.tif", "benign/Masks/x_mask_1.png", "benign/mask/X_MASK.png"]
)
def test_folders_of_images_and_masks(mask: str) -> None:
    image = "benign/images/X.jpg" if "X_" in mask else "benign/images/x.jpg"
    assert pair_masks([image, mask]).images == {image: (mask,)}


def test_folders_of_images_and_masks_below_a_patient() -> None:
    names = ["benign/p1/images/x.png", "benign/p1/masks/x.png", "benign/p2/images/x.png", "benign/p2/masks/x.png"]
    assert pair_masks(names).images == {
        "benign/p1/images/x.png": ("benign/p1/masks/x.png",),
        "benign/p2/images/x.png": ("benign/p2/masks/x.png",),
    }


def test_an_image_may_be_called_mask_in_a_folder_of_images() -> None:
    names = ["benign/images/face_mask.png", "benign/masks/face_mask.png"]
    assert pair_masks(names).images == {"benign/images/face_mask.png": ("benign/masks/face_mask.png",)}


def test_masks_stay_in_their_class() -> None:
    pairing = pair_masks(["benign/x.png", "malignant/x.png", "malignant/x_mask.png"])
    assert pairing.images == {"benign/x.png": (), "malignant/x.png": ("malignant/x_mask.png",)}
    assert pairing.rejected == {}


def test_rejections_by_name() -> None:
    pairing = pair_masks(["benign/x.png", "benign/x_mask.png", "benign/\udcff.png", "benign/z_mask.png", "stray.png"])
    assert pairing.images == {"benign/x.png": ("benign/x_mask.png",), "stray.png": ()}
    assert pairing.rejected == {
        "benign/z_mask.png": "mask without an image",
        "benign/\udcff.png": "its name is not UTF-8",
    }
    assert pairing.masks == 2


def test_folders_of_images_and_masks_above_the_classes() -> None:
    assert pair_masks(["images/benign/x.png", "masks/benign/x.png"]).images == {
        "images/benign/x.png": ("masks/benign/x.png",)
    }


def test_steps_give_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{label}/{i}{end}.png" for label in "ab" for i in range(90) for end in ("", "_mask", "_mask_1")]
    names += ["a/images/x_mask.png", "a/masks/x_mask.png", "a/masks/x_mask_mask.png", "b/lost_mask.png"]
    whole = pair_masks(names)
    monkeypatch.setattr("overlay.sources.mask_pairing.PAIRED_NAMES", 50)
    steps = list(pair_in_steps(names))
    assert len(steps) == 11
    assert {name: masks for step in steps for name, masks in step.images.items()} == whole.images
    assert {name: reason for step in steps for name, reason in step.rejected.items()} == whole.rejected
    assert sum(step.masks for step in steps) == whole.masks == 363
    assert [len(step.images) for step in pair_in_steps([f"a/{i}.png" for i in range(120)])] == [50, 50, 20]


def test_the_order_of_listing_does_not_matter() -> None:
    names = [f"{label}/{i}{end}.png" for label in "ab" for i in range(9) for end in ("", "_mask", "_mask_1")]
    shuffled = random.Random(0).sample(names, len(names))
    assert list(pair_masks(shuffled).images.items()) == list(pair_masks(names).images.items())
