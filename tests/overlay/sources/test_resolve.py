import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overlay.config import Limits, MaskNames
from overlay.errors import ErrorKind, RequestError
from overlay.sources.inputs import Portion
from overlay.sources.resolve import resolve_inputs
from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath
from tests.overlay.archives.test_index import tar, zipped
from tests.overlay.storage.test_walk import make

CLASSES = ("benign", "malignant")


def ids(*inputs: object) -> list[str]:
    portions = resolve_inputs([str(each) for each in inputs], CLASSES, Limits())
    return [image.id for portion in portions for image in portion.images]


def test_one_source_gives_its_own_paths(tmp_path: Path) -> None:
    make(tmp_path, "x/a/1.png", "x/2.png", "x/notes.txt")
    assert ids(tmp_path / "x") == ["2.png", "a/1.png"]
    assert ids(tmp_path / "x" / "2.png", tmp_path / "x" / "a" / "1.png") == ["2.png", "a/1.png"]
    assert ids(tmp_path / "x" / "notes.txt") == ["notes.txt"]


def test_any_mix(tmp_path: Path) -> None:
    make(tmp_path, "x/1.png", "y/x/1.png", "3.png")
    (tmp_path / "z.zip").write_bytes(zipped({"1.png": b""}))
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "t.parquet")
    several = [tmp_path / name for name in ("x", "y/x", "z.zip", "t.parquet", "3.png", "x/1.png", "x")]
    assert ids(*several) == ["x/1.png", "x-2/1.png", "z/1.png", "t.parquet/0", f"{tmp_path.name}/3.png"]


def test_patterns(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/b/2.jpg", "a/b/notes.txt", "c/3.png", "[d]/4.png")
    assert ids(tmp_path / "a" / "*") == ["b/2.jpg", "a/1.png"]
    assert ids(tmp_path / "**" / "*.jpg") == ["2.jpg"]
    assert ids(tmp_path / "**") == ["[d]/4.png", "a/1.png", "a/b/2.jpg", "c/3.png"]
    assert ids(tmp_path / "[ac]" / "?.png") == ["a/1.png", "c/3.png"]
    assert ids(tmp_path / "[d]") == ["4.png"]
    with pytest.raises(RequestError, match=r"no image, archive, table or folder matches .*\*\.tif; check the pattern"):
        ids(tmp_path / "*.tif")


def test_patterns_leave_out_what_overlay_wrote(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "run/config.yaml", "run/run.json", "run/curves.png", "a/out/latest-run", "a/out/b/2.png")

    def portions(pattern: str) -> list[Portion]:
        return list(resolve_inputs([str(tmp_path / pattern)], CLASSES, Limits()))

    found = portions("**/*.png")
    assert [image.id for portion in found for image in portion.images] == ["1.png"]
    assert sorted(found[0].skipped) == [str(tmp_path / "a" / "out"), str(tmp_path / "run")]
    assert ids(tmp_path / "*") == ["1.png"]
    assert ids(tmp_path / "run" / "*.png") == ["curves.png"]  # named by the user
    with pytest.raises(RequestError, match=r"r\*/\*\.png, but for what Overlay wrote; check the pattern"):
        ids(tmp_path / "r*" / "*.png")


def labels(*inputs: object) -> dict[str, str | None]:
    portions = resolve_inputs([str(each) for each in inputs], CLASSES, Limits())
    return {image.id: image.label for portion in portions for image in portion.images}


def test_folders_above_the_named_inputs_are_no_labels(tmp_path: Path) -> None:
    root = make(tmp_path / "benign", "scans/1.png", "scans/Malignant/p/2.png", "benign/3.png", "scans/4.png")
    (root / "benign" / "x.zip").write_bytes(zipped({"5.png": b"", "malignant/6.png": b""}))
    assert labels(root) == {
        "scans/1.png": None,
        "scans/Malignant/p/2.png": "malignant",
        "benign/3.png": "benign",
        "scans/4.png": None,
        "benign/x.zip/5.png": "benign",
        "benign/x.zip/malignant/6.png": "malignant",
    }
    assert set(labels(root / "benign").values()) == {None, "malignant"}
    assert labels(root / "scans" / "1.png", root / "benign" / "x.zip")["scans/1.png"] is None
    assert labels(root / "benign" / "3.png", root / "scans") == {
        "benign/3.png": None,
        "scans/1.png": None,
        "scans/4.png": None,
        "scans/Malignant/p/2.png": "malignant",
    }
    assert labels(root / "benign", root / "scans")["benign/3.png"] == "benign"  # an input of this name


def test_masks_and_what_overlay_wrote_are_left_out_as_in_a_preparation(tmp_path: Path) -> None:
    make(
        tmp_path,
        "benign/1.png",
        "benign_masks/1.png",
        "2.png",
        "2_roi.png",
        "run/config.yaml",
        "run/run.json",
        "run/c.png",
    )
    make(tmp_path, "scans/3.png", "scans/drawn-3.png", "d/dataset.json", "d/manifest.parquet", "d/data/part-0.parquet")
    portions = list(resolve_inputs([str(tmp_path)], CLASSES, Limits()))
    found = {image.id: len(image.masks) for portion in portions for image in portion.images}
    assert found == {"2.png": 1, "benign/1.png": 1, "scans/3.png": 0, "scans/drawn-3.png": 0}
    assert sorted(name for portion in portions for name in portion.skipped) == ["d", "run"]
    portions = list(resolve_inputs([str(tmp_path)], CLASSES, Limits(), MaskNames(prefix="drawn-")))
    found = {image.id: len(image.masks) for portion in portions for image in portion.images}
    assert found == {"2.png": 0, "2_roi.png": 0, "benign/1.png": 1, "scans/3.png": 1}


def test_a_list_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.png", "a/2.png", "b/3.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"a/1.png\n\n{tmp_path}/a/2.png\r\na/1.png\na/gone.png\n"))
    assert ids("-") == ["1.png", "2.png", "gone.png"]


def test_the_order_is_always_the_same(tmp_path: Path) -> None:
    make(tmp_path, *(f"{folder}/{number}.png" for folder in "cab" for number in (2, 10, 1)))
    assert ids(tmp_path) == [f"{folder}/{number}.png" for folder in "abc" for number in (1, 10, 2)]


def test_a_bucket(new_bucket: Callable[[], str], tmp_path: Path) -> None:
    bucket = StoragePath.of(new_bucket())
    for name in ("a/1.png", "a/b/2.png", "a/b/images/3.png", "a/b/masks/3.png", "c.txt"):
        write_text_atomically(bucket / name, name)
    make(tmp_path, "4.png")
    assert ids(bucket / "a") == ["1.png", "b/2.png", "b/images/3.png"]
    assert ids(bucket / "a" / "*.png") == ["1.png"]
    assert ids(bucket / "**" / "*.png") == ["1.png", "b/2.png", "b/images/3.png"]
    assert ids(bucket / "a" / "1.png", tmp_path / "4.png") == ["a/1.png", f"{tmp_path.name}/4.png"]
    ((image,),) = [portion.images for portion in resolve_inputs([str(bucket / "a" / "1.png")], CLASSES, Limits())]
    assert (image.uri, image.size) == (str(bucket / "a" / "1.png"), 7)
    assert image.version is not None
    assert len(image.version) > 10


def test_nothing_to_classify(tmp_path: Path) -> None:
    make(tmp_path, "x/notes.txt")
    with pytest.raises(RequestError, match=r"no image in .*; name image files, archives, tables, or folders"):
        ids(tmp_path / "x")
    with pytest.raises(RequestError, match="input gone is not there"):
        ids("gone")


def test_links_keep_the_names_that_were_given(tmp_path: Path) -> None:
    """As model hubs, DVC and git-annex lay files out: each name is a link to a blob that is called by its digest."""
    make(tmp_path / "blobs", "1", "2")
    (tmp_path / "blobs" / "3").write_bytes(zipped({"5.png": b""}))
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "blobs" / "4")
    (tmp_path / "pics" / "a").mkdir(parents=True)
    for name, blob in (("a/x.png", 1), ("a/x_mask.png", 2), ("y.zip", 3), ("t.parquet", 4)):
        (tmp_path / "pics" / name).symlink_to(tmp_path / "blobs" / str(blob))
    assert ids(tmp_path / "pics" / "*" / "*.png") == ["x.png"]
    assert ids(tmp_path / "pics" / "y.zip") == ["5.png"]
    assert ids(tmp_path / "pics" / "t.parquet") == ["0"]
    assert ids(tmp_path / "pics") == ["a/x.png", "y.zip/5.png", "t.parquet/0"]


def test_what_cannot_be_read_in_a_folder_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.png", "closed/2.png", "lost.zip", "torn.parquet")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("closed/"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    def fail(place: StoragePath, limits: Limits) -> None:
        raise OSError(5, "Input/output error", place.text)

    monkeypatch.setattr("os.scandir", refuse)
    monkeypatch.setattr("overlay.sources.inputs.list_archive", fail)
    portions = resolve_inputs([str(tmp_path)], CLASSES, Limits())
    reasons = {image.id: image.reason for portion in portions for image in portion.images}
    assert {id: reason and reason.kind for id, reason in reasons.items()} == {
        "a/1.png": None,
        "closed": ErrorKind.UNREADABLE,
        "lost.zip": ErrorKind.UNREADABLE,
        "torn.parquet": ErrorKind.DAMAGED,
    }
    assert reasons["closed"] == "folder that can't be read: Permission denied"
    assert str(reasons["lost.zip"]).startswith("archive that can't be read: [Errno 5] Input/output error")


def test_names_in_a_list_that_no_file_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "1.png")
    monkeypatch.chdir(tmp_path)
    names = [f"{'x' * 300}.png", f"{'d/' * 2500}x.png", "a\0b.png", "http://127.0.0.1/x.png"]
    data = "\ufeff" + "\r\n".join(["1.png", "gone.png", *(f'"{name}"' for name in names)])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode("utf-16-le"))))
    images = [image for portion in resolve_inputs(["-"], CLASSES, Limits()) for image in portion.images]
    kinds = [image.reason and image.reason.kind for image in images]
    assert len(images) == 6
    assert kinds.count(None) == 2  # gone.png is one of them: reading will tell
    assert kinds.count(ErrorKind.REFUSED) == 4
    assert len({image.id for image in images}) == 6


def test_folders_above_are_no_labels_whatever_the_input_is(
    tmp_path: Path, new_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images below /data/benign are not benign: else accuracy would be 1.000 of one class."""
    above = tmp_path / "benign"
    make(above, "a/1.png", "a/2.png", "b/3.png")
    (above / "x.zip").write_bytes(zipped({"1.png": b""}))
    (above / "w.tar").write_bytes(tar({"1.png": b"", "1.txt": b"benign"}))
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"uri": ["a/1.png", f"{above}/a/2.png"]}), above / "t.parquet")
    images = pa.array([{"bytes": b"x", "path": "benign/x.png"}, {"bytes": None, "path": "a/1.png"}], struct)
    pq.write_table(pa.table({"image": images}), above / "hf.parquet")
    bucket = StoragePath.of(new_bucket()) / "benign"
    for name in ("a/1.png", "b/2.png"):
        write_text_atomically(bucket / name, name)
    monkeypatch.chdir(above)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"a/1.png\n{above}/a/2.png\n"))
    inputs: list[tuple[object, ...]] = [
        (above / "a",),
        (above / "a", above / "b"),
        (above / "a" / "1.png", above / "a" / "2.png"),
        (above / "*" / "*.png",),
        *((above / name,) for name in ("x.zip", "w.tar", "t.parquet", "hf.parquet")),
        (above / "x.zip", above / "w.tar", above / "t.parquet", above / "hf.parquet", above / "a"),
        ("-",),
        (bucket,),
        (bucket / "a" / "1.png",),
        (bucket / "*" / "*.png", above / "a"),
    ]
    for each in inputs:
        found = labels(*each)
        assert len(found) > 0
        assert set(found.values()) == {None}, each
