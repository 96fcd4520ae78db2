import unicodedata
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from overlay.config import MaskNames
from overlay.sources.conventions import FolderRole, MaskConventions, fold, normal_form
from tests.overlay.sources.pairing import pair_masks

RECOGNISED = MaskConventions()


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("x_mask", ("x", "mask", False)),
        ("benign (4)_mask_12", ("benign (4)", "mask", False)),
        ("x_mask (2)", ("x", "mask", False)),
        ("x-MASKS", ("x", "masks", False)),
        ("x_mask_mask", ("x_mask", "mask", False)),
        ("mask_0001-l", ("0001-l", "mask", False)),
        ("mask001", ("001", "mask", False)),
        ("mask", ("", "mask", False)),
        ("k.mask", ("k", "mask", False)),
        ("case001_tumor", ("case001", "tumor", True)),
        ("ISIC_1_segmentation", ("ISIC_1", "segmentation", True)),
        ("x ground truth", ("x", "ground truth", True)),
        ("x_masked", None),
        ("_mask", None),
        ("unmask", None),
        ("x_other1", None),
        ("tumors", None),
    ],
)
def test_stems_of_masks(stem: str, expected: tuple[str, str, bool] | None) -> None:
    assert RECOGNISED.read_mask(stem) == expected


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("bus_0001-l", "0001-l"),
        ("k.image", "k"),
        ("1 Benign Image", "1 Benign"),
        ("img7", "7"),
        ("image", ""),
        ("x", None),
        ("business", None),
        ("img_1_mask", None),
    ],
)
def test_stems_of_images(stem: str, expected: str | None) -> None:
    assert RECOGNISED.read_image(stem) == expected


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["images", "masks"], {"images": ("", "image", ""), "masks": ("", "mask", "masks")}),
        (["US", "Ground Truth"], {"US": ("", "image", ""), "Ground Truth": ("", "mask", "groundtruth")}),
        (["a", "b", "GT"], {"a": ("a", "", ""), "b": ("b", "", ""), "GT": ("", "mask", "gt")}),
        (["a", "a_masks", "b"], {"a": ("a", "", ""), "a_masks": ("a", "mask", "masks"), "b": ("b", "", "")}),
        (["a_input", "a_gt"], {"a_input": ("a", "image", ""), "a_gt": ("a", "mask", "gt")}),
        (["a_input", "b_gt"], {"a_input": ("a_input", "", ""), "b_gt": ("b_gt", "", "")}),
    ],
)
def test_roles_of_the_folders_of_one_folder(folders: list[str], expected: dict[str, tuple[str, str, str]]) -> None:
    assert RECOGNISED.siblings(folders) == {name: FolderRole(*role) for name, role in expected.items()}  # type: ignore[arg-type]
    keys = RECOGNISED.group(folders)
    for name, (key, role, _) in expected.items():
        assert role == "" or keys[name] == key  # walked together


words = st.sampled_from(["x", "mask", "gt", "img", "bus", "1", "22", "tumor", "\u00e9", "e\u0301", "roi", "seg"])
stems = st.lists(words, min_size=1, max_size=5).flatmap(
    lambda parts: st.lists(st.sampled_from(["_", "-", ".", " ", ""]), min_size=len(parts), max_size=len(parts)).map(
        lambda separators: "".join(map("".join, zip(parts, separators, strict=True))).rstrip("_-. ") or "x"
    )
)
folders = st.lists(st.sampled_from(["a", "b", "images", "masks", "GT", "a_masks", "img-b"]), max_size=3).map("/".join)
names = st.sets(st.tuples(folders, stems).map(lambda each: f"{each[0]}/{each[1]}.png".lstrip("/")), max_size=14)
conventions = st.sampled_from(
    [RECOGNISED, MaskConventions.of(MaskNames(suffix="_tumor")), MaskConventions.of(MaskNames("gt", "mask_", "img-b"))]
)


@given(names, conventions)
def test_each_name_is_an_image_a_mask_or_rejected_and_masks_share_the_core_of_their_image(
    listed: set[str], rule: MaskConventions
) -> None:
    pairing = pair_masks(listed, rule)
    used = [mask for masks in pairing.images.values() for mask in masks]
    assert {*pairing.images, *pairing.rejected, *used} == listed
    assert not pairing.images.keys() & set(used)
    assert pairing.masks == len(listed) - len(pairing.images)
    roles = rule.roles({name.rpartition("/")[0] for name in listed})
    for image, masks in pairing.images.items():
        for name in masks:
            folder, _, file = name.rpartition("/")
            above, _, owner = image.rpartition("/")
            assert roles[folder].key == roles[above].key
            assert rule.core(normal_form(file[:-4])) == rule.core(normal_form(owner[:-4]))


@given(names)
@example({"x.png", "é.png", "mask_é.png", "é_mask.png"})  # the order of two masks
def test_the_form_of_unicode_does_not_matter(listed: set[str]) -> None:
    def pairs(form: Literal["NFC", "NFD"]) -> set[tuple[str, ...]]:
        given = {unicodedata.normalize(form, name) for name in listed}
        found = pair_masks(given).images.items()
        return {tuple(map(normal_form, (image, *masks))) for image, masks in found}

    assert pairs("NFC") == pairs("NFD")


def test_folding() -> None:
    assert fold("E\u0301") == fold("\u00e9") == "\u00e9"
    assert fold("ABC") == "abc"
