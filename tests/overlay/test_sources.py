import gzip
import os
import random
from pathlib import Path

import pytest

from overlay.errors import RequestError
from overlay.names import is_image
from overlay.sources import Record, Rejected, collect, is_mask, pair, wrapper
from tests.overlay.test_archives import tar


def make(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def test_class_folders_of_finished_overlays() -> None:
    pairing = pair(["benign/a.png", "malignant/deep/b.JPG"])
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
    pairing = pair(names)
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
    assert pair([image, mask]).images == {image: (mask,)}


def test_folders_of_images_and_masks_below_a_patient() -> None:
    names = ["benign/p1/images/x.png", "benign/p1/masks/x.png", "benign/p2/images/x.png", "benign/p2/masks/x.png"]
    assert pair(names).images == {
        "benign/p1/images/x.png": ("benign/p1/masks/x.png",),
        "benign/p2/images/x.png": ("benign/p2/masks/x.png",),
    }


def test_an_image_may_be_called_mask_in_a_folder_of_images() -> None:
    names = ["benign/images/face_mask.png", "benign/masks/face_mask.png"]
    assert pair(names).images == {"benign/images/face_mask.png": ("benign/masks/face_mask.png",)}


def test_masks_stay_in_their_class() -> None:
    pairing = pair(["benign/x.png", "malignant/x.png", "malignant/x_mask.png"])
    assert pairing.images == {"malignant/x.png": ("malignant/x_mask.png",)}
    assert pairing.rejected == {"benign/x.png": "image without a mask, where others of its source have one"}


def test_rejections_by_name() -> None:
    pairing = pair(["benign/x.png", "benign/x_mask.png", "benign/y.png", "benign/z_mask.png", "stray.png"])
    assert pairing.images == {"benign/x.png": ("benign/x_mask.png",)}
    assert pairing.rejected == {
        "benign/y.png": "image without a mask, where others of its source have one",
        "benign/z_mask.png": "mask without an image",
        "stray.png": "lies beside the class folders, so it has no label",
    }


def test_a_name_that_is_not_utf8_is_rejected_and_written_with_escapes(tmp_path: Path) -> None:
    source = make(tmp_path, "a/1.png", "b/1.png")
    Path(os.fsdecode(os.fsencode(source) + b"/a/\xff.png")).touch()
    collection = collect([str(source)])
    assert [record.id for record in collection.records] == ["a/1.png", "b/1.png"]
    (rejected,) = collection.rejected
    assert (rejected.id, rejected.label, rejected.reason) == ("a/\\udcff.png", "a", "its name is not UTF-8")


def test_the_order_of_listing_does_not_matter() -> None:
    names = [f"{label}/{i}{end}.png" for label in "ab" for i in range(9) for end in ("", "_mask", "_mask_1")]
    shuffled = random.Random(0).sample(names, len(names))
    assert list(pair(shuffled).images.items()) == list(pair(names).images.items())


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["benign/a.png", "malignant/b.png"], ""),
        (["BUSI/benign/a.png", "BUSI/malignant/b.png"], "BUSI/"),
        (["x/BUSI/benign/a.png", "x/BUSI/malignant/b.png"], "x/BUSI/"),
        (["benign/images/a.png", "benign/masks/a.png"], ""),
        (["benign/a.png", "benign/b.png"], ""),
        (["a.png"], ""),
        (["BUSI/benign/a.png", "BUSI/malignant/b.png", "logo.png"], ""),
    ],
)
def test_wrapper(names: list[str], prefix: str) -> None:
    assert wrapper(names) == prefix


@pytest.mark.parametrize("name", ["a/.x.png", ".hidden/x.png", "__MACOSX/a/x.png", "a/Thumbs.db", "a/notes.txt", "a/x"])
def test_no_image(name: str) -> None:
    assert not is_image(name)


@pytest.mark.parametrize(
    ("name", "mask"),
    [("a/x_mask.png", True), ("a/x_mask_12.png", True), ("a/x_masked.png", False), ("a/_mask.png", False)],
)
def test_names_of_masks(name: str, mask: bool) -> None:
    assert is_mask(name) is mask


def test_collect_skips_the_wrapper_and_counts(tmp_path: Path) -> None:
    make(tmp_path / "set", "BUSI/benign/1.png", "BUSI/benign/1_mask.png", "BUSI/normal/2.png", "BUSI/normal/2_mask.png")
    make(tmp_path / "set", "BUSI/normal/3_mask.png", "BUSI/readme.txt", "__MACOSX/BUSI/benign/1.png", ".DS_Store")
    root = tmp_path.resolve() / "set" / "BUSI"
    collection = collect([str(tmp_path / "set")])
    assert collection.records == [
        Record(
            "benign/1.png",
            f"{root}/benign/1.png",
            None,
            (f"{root}/benign/1_mask.png",),
            "benign",
            "set",
            "benign/1.png",
        ),
        Record(
            "normal/2.png",
            f"{root}/normal/2.png",
            None,
            (f"{root}/normal/2_mask.png",),
            "normal",
            "set",
            "normal/2.png",
        ),
    ]
    assert collection.rejected == [
        Rejected("normal/3_mask.png", f"{root}/normal/3_mask.png", "normal", "mask without an image")
    ]
    assert (collection.images, collection.masks, collection.passed_over) == (2, 3, 3)


def test_several_sources_keep_equal_paths_apart(tmp_path: Path) -> None:
    sources = [make(tmp_path / name, "a/1.png", "b/1.png") for name in ("x", "y", "more/x")]
    ids = [record.id for record in collect([str(source) for source in sources]).records]
    assert ids == ["x-2/a/1.png", "x-2/b/1.png", "x/a/1.png", "x/b/1.png", "y/a/1.png", "y/b/1.png"]


def test_a_source_of_one_class_adds_to_another(tmp_path: Path) -> None:
    masked = make(tmp_path / "masked", "benign/1.png", "benign/1_mask.png")
    plain = make(tmp_path / "plain", "normal/1.png")
    collection = collect([str(masked), str(plain)])
    assert [record.id for record in collection.records] == ["masked/benign/1.png", "plain/normal/1.png"]
    assert collection.rejected == []


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    source = make(tmp_path / "set", "a/1.png", "b/1.png")
    (source / "a" / "again").symlink_to(source)
    assert len(collect([str(source)]).records) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.txt"], "holds no image among its 1 files"),
        (["1.png", "2.png"], "has images but no class folders"),
        (["benign/1.png"], "only one class, benign"),
        (["images/1.png", "masks/1.png"], "images, masks found where class folders should be"),
        (["images/a/1.png", "masks/a/1.png"], "images, masks found where class folders should be"),
        (["train/a/1.png", "test/a/1.png"], "the folders test, train are splits, not classes"),
        (["a/1.png", "a/1_mask.png", "b/1.png"], "no image of class b is left"),
    ],
)
def test_bad_requests(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        collect([str(make(tmp_path, *names))])
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_sources_that_are_none(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(RequestError, match="nowhere is not there"):
        collect([str(tmp_path / "nowhere")])
    with pytest.raises(RequestError, match=r"1\.png is a file"):
        collect([str(tmp_path / "a" / "1.png")])
    with pytest.raises(RequestError, match="named twice"):
        collect([str(tmp_path), str(tmp_path / "a" / "..")])


def test_webdataset_labels_stand_for_class_folders(tmp_path: Path) -> None:
    files = {f"{i:04}.{end}": b"" for i in range(4) for end in ("png", "cls")}
    files |= {"0000_mask.png": b"", "0001_mask.png": b"", "0002_mask.png": b"", "0003_mask.png": b""}
    files |= {f"{i:04}.cls": label for i, label in enumerate([b"benign", b"malignant\n", b"benign", b"no/rm"])}
    (tmp_path / "shard.tar").write_bytes(tar(files))
    collection = collect([str(tmp_path / "shard.tar")])
    assert collection.rejected == []
    assert [(record.id, record.label, record.member, record.masks) for record in collection.records] == [
        ("benign/0000.png", "benign", "0000.png", ("0000_mask.png",)),
        ("benign/0002.png", "benign", "0002.png", ("0002_mask.png",)),
        ("malignant/0001.png", "malignant", "0001.png", ("0001_mask.png",)),
        ("no_rm/0003.png", "no_rm", "0003.png", ("0003_mask.png",)),
    ]


def test_archives_beside_class_folders_are_passed_over_and_alone_they_are_sources(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        (shards / f"{number}.tar.gz").write_bytes(gzip.compress(tar({f"a/{number}.png": b"", f"b/{number}.png": b""})))
    ids = ["0/a/0.png", "0/b/0.png", "1/a/1.png", "1/b/1.png"]
    assert [record.id for record in collect([str(shards)]).records] == ids
    make(shards, "a/1.png", "b/1.png")
    collection = collect([str(shards)])
    assert [record.id for record in collection.records] == ["a/1.png", "b/1.png"]
    assert collection.passed_over == 2


def test_an_archive_has_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", "a/1.png", "b/1.png")
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(tar({"set/a/1.png": b"", "set/b/1.png": b""})))
    collection = collect([str(folder), str(tmp_path / "set.tar.gz")])
    assert [(record.id, record.source) for record in collection.records] == [
        ("set-2/a/1.png", "set-2"),
        ("set-2/b/1.png", "set-2"),
        ("set/a/1.png", "set"),
        ("set/b/1.png", "set"),
    ]
