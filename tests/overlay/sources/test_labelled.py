import gzip
import os
from pathlib import Path

import pytest

from overlay.errors import RequestError
from overlay.sources.labelled import Record, Rejected, list_labelled
from overlay.storage.filenames import is_image
from tests.overlay.archives.test_index import tar


def make(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def test_a_name_that_is_not_utf8_is_rejected_and_written_with_escapes(tmp_path: Path) -> None:
    source = make(tmp_path, "a/1.png", "b/1.png")
    Path(os.fsdecode(os.fsencode(source) + b"/a/\xff.png")).touch()
    collection = list_labelled([str(source)])
    assert [record.id for record in collection.records] == ["a/1.png", "b/1.png"]
    (rejected,) = collection.rejected
    assert (rejected.id, rejected.label, rejected.reason) == ("a/\\udcff.png", "a", "its name is not UTF-8")


@pytest.mark.parametrize("name", ["a/.x.png", ".hidden/x.png", "__MACOSX/a/x.png", "a/Thumbs.db", "a/notes.txt", "a/x"])
def test_no_image(name: str) -> None:
    assert not is_image(name)


def test_collect_skips_the_wrapper_and_counts(tmp_path: Path) -> None:
    make(tmp_path / "set", "BUSI/benign/1.png", "BUSI/benign/1_mask.png", "BUSI/normal/2.png", "BUSI/normal/2_mask.png")
    make(tmp_path / "set", "BUSI/normal/3_mask.png", "BUSI/readme.txt", "__MACOSX/BUSI/benign/1.png", ".DS_Store")
    root = tmp_path.resolve() / "set" / "BUSI"
    collection = list_labelled([str(tmp_path / "set")])
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
    ids = [record.id for record in list_labelled([str(source) for source in sources]).records]
    assert ids == ["x-2/a/1.png", "x-2/b/1.png", "x/a/1.png", "x/b/1.png", "y/a/1.png", "y/b/1.png"]


def test_a_source_of_one_class_adds_to_another(tmp_path: Path) -> None:
    masked = make(tmp_path / "masked", "benign/1.png", "benign/1_mask.png")
    plain = make(tmp_path / "plain", "normal/1.png")
    collection = list_labelled([str(masked), str(plain)])
    assert [record.id for record in collection.records] == ["masked/benign/1.png", "plain/normal/1.png"]
    assert collection.rejected == []


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    source = make(tmp_path / "set", "a/1.png", "b/1.png")
    (source / "a" / "again").symlink_to(source)
    assert len(list_labelled([str(source)]).records) == 2


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
        list_labelled([str(make(tmp_path, *names))])
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_sources_that_are_none(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(RequestError, match="nowhere is not there"):
        list_labelled([str(tmp_path / "nowhere")])
    with pytest.raises(RequestError, match=r"1\.png is a file"):
        list_labelled([str(tmp_path / "a" / "1.png")])
    with pytest.raises(RequestError, match="named twice"):
        list_labelled([str(tmp_path), str(tmp_path / "a" / "..")])


def test_webdataset_labels_stand_for_class_folders(tmp_path: Path) -> None:
    files = {f"{i:04}.{end}": b"" for i in range(4) for end in ("png", "cls")}
    files |= {"0000_mask.png": b"", "0001_mask.png": b"", "0002_mask.png": b"", "0003_mask.png": b""}
    files |= {f"{i:04}.cls": label for i, label in enumerate([b"benign", b"malignant\n", b"benign", b"no/rm"])}
    (tmp_path / "shard.tar").write_bytes(tar(files))
    collection = list_labelled([str(tmp_path / "shard.tar")])
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
    assert [record.id for record in list_labelled([str(shards)]).records] == ids
    make(shards, "a/1.png", "b/1.png")
    collection = list_labelled([str(shards)])
    assert [record.id for record in collection.records] == ["a/1.png", "b/1.png"]
    assert collection.passed_over == 2


def test_an_archive_has_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", "a/1.png", "b/1.png")
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(tar({"set/a/1.png": b"", "set/b/1.png": b""})))
    collection = list_labelled([str(folder), str(tmp_path / "set.tar.gz")])
    assert [(record.id, record.source) for record in collection.records] == [
        ("set-2/a/1.png", "set-2"),
        ("set-2/b/1.png", "set-2"),
        ("set/a/1.png", "set"),
        ("set/b/1.png", "set"),
    ]
