import gzip
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import Prepare
from overlay.errors import RequestError
from overlay.images.ref import ImageRef
from overlay.preparation.listing import list_sources
from overlay.sources.class_layout import wrapping_folder
from overlay.sources.labelled import ClassCounts, LabelledListing, ListingOptions, list_labelled
from overlay.sources.reader import read_in_order
from overlay.storage.filenames import is_image
from tests.overlay.archives.test_index import tar, zipped


def listed(*sources: Path) -> tuple[LabelledListing, list[ImageRef]]:
    """List sources as `overlay prepare` does; the references come in the order of their ids."""
    with tempfile.TemporaryDirectory() as folder:
        listing = list_labelled([str(source) for source in sources], ListingOptions(), Path(folder))
        counts, found = ClassCounts(), []
        for ref, path in listing.read():
            assert ref.id.endswith(path)
            counts.add(ref)
            found.append(ref)
        counts.check([str(source) for source in sources])
    return listing, sorted(found)


def usable(refs: list[ImageRef]) -> list[ImageRef]:
    return [ref for ref in refs if ref.reason is None]


def make(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return folder


def test_a_name_that_is_not_utf8_is_rejected_and_written_with_escapes(tmp_path: Path) -> None:
    source = make(tmp_path, "a/1.png", "b/1.png")
    Path(os.fsdecode(os.fsencode(source) + b"/a/\xff.png")).touch()
    _, refs = listed(source)
    assert [ref.id for ref in usable(refs)] == ["a/1.png", "b/1.png"]
    (rejected,) = [ref for ref in refs if ref.reason]
    assert (rejected.id, rejected.label, rejected.reason) == ("a/\\udcff.png", "a", "its name is not UTF-8")


@pytest.mark.parametrize("name", ["a/.x.png", ".hidden/x.png", "__MACOSX/a/x.png", "a/Thumbs.db", "a/notes.txt", "a/x"])
def test_no_image(name: str) -> None:
    assert not is_image(name)


def test_collect_skips_the_wrapper_and_counts(tmp_path: Path) -> None:
    make(tmp_path / "set", "BUSI/benign/1.png", "BUSI/benign/1_mask.png", "BUSI/normal/2.png", "BUSI/normal/2_mask.png")
    make(tmp_path / "set", "BUSI/normal/3_mask.png", "BUSI/readme.txt", "__MACOSX/BUSI/benign/1.png", ".DS_Store")
    root = tmp_path / "set" / "BUSI"
    listing, refs = listed(tmp_path / "set")
    assert [(ref.id, ref.uri, ref.masks, ref.label, ref.source, ref.reason) for ref in refs] == [
        ("benign/1.png", f"{root}/benign/1.png", (f"{root}/benign/1_mask.png",), "benign", "set", None),
        ("normal/2.png", f"{root}/normal/2.png", (f"{root}/normal/2_mask.png",), "normal", "set", None),
        ("normal/3_mask.png", f"{root}/normal/3_mask.png", (), "normal", "set", "mask without an image"),
    ]
    assert (listing.images, listing.masks, listing.passed_over.total()) == (2, 3, 3)


def test_several_sources_keep_equal_paths_apart(tmp_path: Path) -> None:
    sources = [make(tmp_path / name, "a/1.png", "b/1.png") for name in ("x", "y", "more/x")]
    ids = [ref.id for ref in listed(*sources)[1]]
    assert ids == ["x-2/a/1.png", "x-2/b/1.png", "x/a/1.png", "x/b/1.png", "y/a/1.png", "y/b/1.png"]


def test_a_source_of_one_class_adds_to_another(tmp_path: Path) -> None:
    masked = make(tmp_path / "masked", "benign/1.png", "benign/1_mask.png")
    plain = make(tmp_path / "plain", "normal/1.png")
    _, refs = listed(masked, plain)
    assert [(ref.id, ref.reason) for ref in refs] == [("masked/benign/1.png", None), ("plain/normal/1.png", None)]


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    source = make(tmp_path / "set", "a/1.png", "b/1.png")
    (source / "a" / "again").symlink_to(source)
    assert len(listed(source)[1]) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.txt"], "holds no image among its 1 files"),
        (["1.png", "2.png"], "has images but no class folders"),
        (["benign/1.png"], "only one class, benign"),
        (["images/1.png", "masks/1.png"], "has images but no class folders"),
        (["train/a/1.png", "val/a/1.png"], "has the splits train, val and none for test"),
        (["a/1.png", "a/1_mask.png", "b/1.png"], "no image of class b is left"),
    ],
)
def test_bad_requests(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        listed(make(tmp_path, *names))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_sources_that_are_none(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "b/1.png")
    with pytest.raises(RequestError, match="nowhere is not there"):
        listed(tmp_path / "nowhere")
    with pytest.raises(RequestError, match=r"1\.png is a file"):
        listed(tmp_path / "a" / "1.png")
    with pytest.raises(RequestError, match="named twice"):
        listed(tmp_path, tmp_path / "a" / "..")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(RequestError, match="named twice"):
        listed(tmp_path, tmp_path / "link")


def test_webdataset_labels_stand_for_class_folders(tmp_path: Path) -> None:
    files = {f"{i:04}.{end}": b"" for i in range(4) for end in ("png", "cls")}
    files |= {"0000_mask.png": b"", "0001_mask.png": b"", "0002_mask.png": b"", "0003_mask.png": b""}
    files |= {f"{i:04}.cls": label for i, label in enumerate([b"benign", b"malignant\n", b"benign", b"no/rm"])}
    (tmp_path / "shard.tar").write_bytes(tar(files))
    _, refs = listed(tmp_path / "shard.tar")
    assert usable(refs) == refs
    assert [(ref.id, ref.label, ref.member, ref.masks) for ref in refs] == [
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
    assert [ref.id for ref in listed(shards)[1]] == ids
    make(shards, "a/1.png", "b/1.png")
    listing, refs = listed(shards)
    assert [ref.id for ref in refs] == ["a/1.png", "b/1.png"]
    assert listing.passed_over.total() == 2


def test_an_archive_has_the_name_of_its_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", "a/1.png", "b/1.png")
    (tmp_path / "set.tar.gz").write_bytes(gzip.compress(tar({"set/a/1.png": b"", "set/b/1.png": b""})))
    _, refs = listed(folder, tmp_path / "set.tar.gz")
    assert [(ref.id, ref.source) for ref in refs] == [
        ("set-2/a/1.png", "set-2"),
        ("set-2/b/1.png", "set-2"),
        ("set/a/1.png", "set"),
        ("set/b/1.png", "set"),
    ]


def test_an_image_without_a_mask_where_others_have_one_and_a_stray(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/1_mask.png", "b/1.png", "b/1_mask.png", "b/2.png", "stray.png", "stray_mask.png")
    _, refs = listed(tmp_path)
    assert [(ref.id, ref.label, ref.reason) for ref in refs if ref.reason] == [
        ("b/2.png", "b", "image without a mask, where others of its source have one"),
        ("stray.png", None, "lies beside the class folders, so it has no label"),
    ]


def test_a_link_keeps_the_name_that_the_user_gave(tmp_path: Path) -> None:
    make(tmp_path / "blobs", "x")
    (tmp_path / "blobs" / "sha").write_bytes(gzip.compress(tar({"a/1.png": b"", "b/1.png": b""})))
    (tmp_path / "busi.tar.gz").symlink_to(tmp_path / "blobs" / "sha")
    _, refs = listed(tmp_path / "busi.tar.gz")
    assert [(ref.id, ref.source, ref.uri) for ref in refs] == [
        ("a/1.png", "busi", str(tmp_path / "busi.tar.gz")),
        ("b/1.png", "busi", str(tmp_path / "busi.tar.gz")),
    ]


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
    assert wrapping_folder({name.rpartition("/")[0] for name in names}) == prefix


def test_a_table_of_images_is_a_source(tmp_path: Path) -> None:
    images = pa.array([{"bytes": b"x", "path": f"{i}.png"} for i in range(4)])
    features = {"label": {"names": ["benign", "malignant"], "_type": "ClassLabel"}}
    table = pa.table({"image": images, "label": [0, 1, 1, None]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, tmp_path / "hf.parquet")
    pq.write_table(pa.table({"id": ["0.png"], "age": [3]}), tmp_path / "patients.parquet")
    for source in (tmp_path / "hf.parquet", tmp_path):
        listing, refs = listed(source)
        assert [(ref.id, ref.member, ref.label, ref.reason) for ref in refs] == [
            ("3.png", "3", None, "row without a label"),
            ("benign/0.png", "0", "benign", None),
            ("malignant/1.png", "1", "malignant", None),
            ("malignant/2.png", "2", "malignant", None),
        ]
        assert listing.images == 4


def labelled_table(place: Path, labels: list[str]) -> None:
    place.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": [b"x"] * len(labels), "label": labels}), place)


def test_the_splits_of_tables_and_archives_that_lie_together(tmp_path: Path) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001"):
        labelled_table(tmp_path / "hub" / f"{name}.parquet", ["benign", "malignant"])
    (tmp_path / "zips").mkdir()
    for name in ("Train", "test"):
        (tmp_path / "zips" / f"{name}.zip").write_bytes(
            zipped({f"{name}/benign/1.png": b"", f"{name}/normal/1.png": b""})
        )
    listing, refs = listed(tmp_path / "hub")
    assert [ref.split for ref in refs] == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    assert set(listing.layout.splits.values()) == {"train", "val", "test"}
    assert sorted({(ref.label, ref.split) for ref in listed(tmp_path / "zips")[1]}) == [
        ("benign", "test"),
        ("benign", "train"),
        ("normal", "test"),
        ("normal", "train"),
    ]


def test_files_of_one_split_are_divided_by_overlay(tmp_path: Path) -> None:
    labelled_table(tmp_path / "hub" / "train-00000-of-00001.parquet", ["benign", "malignant"])
    listing, refs = listed(tmp_path / "hub")
    assert not listing.layout.splits
    assert [ref.split for ref in refs] == [None, None]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train", "test", "more"], r"has the files test.parquet, train.parquet, splits by their names, and beside"),
        (["train", "val"], r"has the splits train.parquet, val.parquet and none for test; add it"),
    ],
)
def test_incomplete_splits_of_files(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        labelled_table(tmp_path / f"{name}.parquet", ["benign", "malignant"])
    with pytest.raises(RequestError, match=message):
        listed(tmp_path)


def test_the_rows_of_a_table_are_read_in_order(tmp_path: Path) -> None:
    table = {"image": [bytes([i]) for i in range(6)], "label": ["a", "b"] * 3}
    pq.write_table(pa.table(table), tmp_path / "t.parquet", row_group_size=2)
    listed = list_sources(Prepare([str(tmp_path / "t.parquet")], "unused"), tmp_path, lambda _: None)
    (unit,) = listed.manifest.units
    assert unit.in_order
    contents = [data for _, group in read_in_order(listed.manifest.manifest, unit) for data in group]
    assert contents == [[bytes([i])] for i in range(6)]
