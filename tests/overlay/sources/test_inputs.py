import gzip
import os
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.config import Limits
from overlay.images.ref import ImageRef
from overlay.sources.input_folder import list_folder
from overlay.sources.inputs import IRREGULAR, ListingRule, Portion, list_files, list_members
from overlay.storage.filenames import describe_passed_over
from overlay.storage.path import StoragePath
from tests.overlay.archives.test_index import special, tar, zipped
from tests.overlay.storage.test_walk import make

RULE = ListingRule("", Limits(), ("benign", "Malignant"))


def images_of(portions: list[Portion]) -> list[ImageRef]:
    return [image for portion in portions for image in portion.images]


def test_a_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "x", "malignant/p/1.png", "malignant/p/1_mask.png", "2.png", "notes.txt", "3_mask.png")
    portions = list(list_folder(StoragePath.of(folder), RULE))
    assert [(image.id, image.label, len(image.masks), image.reason) for image in images_of(portions)] == [
        ("2.png", None, 0, None),
        ("3_mask.png", None, 0, "mask without an image"),
        ("malignant/p/1.png", "Malignant", 1, None),
    ]
    assert sum(sum(portion.passed_over.values()) for portion in portions) == 1
    last = images_of(portions)[-1]
    masked = folder / "malignant" / "p"
    assert (last.uri, last.masks) == (str(masked / "1.png"), (str(masked / "1_mask.png"),))
    assert (last.size, last.drawn) == (17, True)
    assert last.version == ";".join(str((masked / name).stat().st_mtime_ns) for name in ("1.png", "1_mask.png"))


def test_archives_in_a_folder_come_last(tmp_path: Path) -> None:
    make(tmp_path, "benign/1.png", "bad/x.zip")
    (tmp_path / "a.zip").write_bytes(zipped({"malignant/1.png": b"", "bad/../1.png": b""}))
    found = images_of(list(list_folder(StoragePath.of(tmp_path), replace(RULE, prefix="s/"))))
    assert [(image.id, image.member, image.label, image.reason) for image in found] == [
        ("s/benign/1.png", None, "benign", None),
        ("s/a.zip/malignant/1.png", "malignant/1.png", "Malignant", None),
        ("s/a.zip/bad/../1.png", "bad/../1.png", None, "unsafe name: absolute, or leading out of the archive"),
        ("s/bad/x.zip", None, None, "no archive that can be read (zip, tar, tar.gz, tar.zst)"),
    ]


def test_an_archive_and_what_is_wrong_in_it(tmp_path: Path) -> None:
    link = special("a/1.png", tarfile.SYMTYPE, "/etc/passwd")
    (tmp_path / "x.tar").write_bytes(
        tar({"a/1.png": b"", "a/1_mask.png": b"", "2.png": b"", "2.cls": b"BENIGN"}, link, link)
    )
    (portion,) = list_members(StoragePath.of(tmp_path / "x.tar"), RULE)
    reason = "link or device within an archive: only regular files are read"
    assert [(image.id, image.member, image.masks, image.label, image.reason) for image in portion.images] == [
        ("2.png", "2.png", (), "benign", None),
        ("a/1.png", "a/1.png", ("a/1_mask.png",), None, None),
        ("a/1.png#2", "a/1.png", (), None, reason),
        ("a/1.png#3", "a/1.png", (), None, reason),
    ]
    assert {image.uri for image in portion.images} == {str(tmp_path / "x.tar")}
    assert [len(image.spans or ()) for image in portion.images] == [1, 2, 0, 0]
    assert not portion.in_order


def test_what_is_compressed_as_a_whole_is_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(tar({"b.png": b"", "a.png": b"", "c.zip": b""})))
    at_once, in_order = list_members(StoragePath.of(tmp_path / "x.tar.gz"), RULE)
    assert [(image.id, image.reason and image.reason[:7]) for image in at_once.images] == [("c.zip", "archive")]
    assert [image.id for image in in_order.images] == ["b.png", "a.png"]
    assert in_order.in_order


def test_a_large_archive_is_listed_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"a/{number}{end}.png": b"" for number in range(1100) for end in ("", "_mask")} | {"b.txt": b""}
    (tmp_path / "x.tar").write_bytes(tar(files, special("a/7.png", tarfile.SYMTYPE, "/etc/passwd")))
    (whole, rest) = list_members(StoragePath.of(tmp_path / "x.tar"), RULE)
    assert [len(whole.images), len(rest.images)] == [1024, 77]
    assert rest.images[-1].id == "a/7.png#2"
    monkeypatch.setattr("overlay.sources.mask_pairing.PAIRED_NAMES", 100)
    monkeypatch.setattr("overlay.sources.inputs._PORTION", 50)
    steps = list(list_members(StoragePath.of(tmp_path / "x.tar"), RULE))
    assert len(steps) > 22
    assert max(len(step.images) for step in steps) == 50
    assert sorted(images_of(steps)) == sorted([*whole.images, *rest.images])
    for portions in ([whole, rest], steps):
        assert sum(portion.masks for portion in portions) == 1100
        assert sum(sum(portion.passed_over.values()) for portion in portions) == 1


def test_a_broken_archive_is_an_input_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, "x.zip")
    (tmp_path / "x.zip").write_bytes(b"")
    (portion,) = list_members(StoragePath.of(tmp_path / "x.zip"), RULE)
    assert [(image.id, image.member, image.reason) for image in portion.images] == [("x.zip", None, "empty file")]


def test_files_that_were_named(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/1_mask.png", "a/2.png", "odd.bin")
    names = ["odd.bin", "a/1_mask.png", "a/1.png", "a/1.png", "gone.png"]
    found = images_of(list(list_files(names, StoragePath.of(tmp_path), RULE)))
    assert [(image.id, len(image.masks), image.size) for image in found] == [
        ("a/1.png", 1, 7),
        ("gone.png", 0, None),
        ("odd.bin", 0, 7),
    ]


def test_names_and_sizes_that_can_not_be(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).touch()
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(2**40)
    found = images_of(list(list_folder(StoragePath.of(tmp_path), RULE)))
    assert [(image.id, image.reason) for image in found] == [
        ("huge.png", "file too large: 1099511627776 bytes, more than 268435456 (limits.member_bytes)"),
        ("\\udcff.png", "its name is not UTF-8"),
    ]


def test_a_table_that_is_torn_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 and no end")
    (image,) = images_of(list(list_folder(StoragePath.of(tmp_path), RULE)))
    assert image.id == "part-0.parquet"
    assert image.reason is not None
    assert image.reason.startswith(f"table {tmp_path / 'part-0.parquet'} can't be read: ")


def test_what_is_no_regular_file_is_an_input_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", "a/fine.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "lost.png").symlink_to("gone")
    (tmp_path / "a" / "linked.png").symlink_to("1.png")
    found = images_of(list(list_folder(StoragePath.of(tmp_path), RULE)))
    assert [(image.id, image.reason) for image in found] == [
        ("a/1.png", None),
        ("a/fine.png", None),
        ("a/linked.png", None),
        ("a/lost.png", IRREGULAR),
        ("a/pipe.png", IRREGULAR),
        ("a/zero.png", IRREGULAR),
    ]


def test_hidden_and_system_folders_are_counted_and_not_entered(tmp_path: Path) -> None:
    make(tmp_path, "a/1.png", ".git/x.png", "@eaDir/a/1.png", "a/.ipynb_checkpoints/1.png", "$RECYCLE.BIN/x.png")
    make(tmp_path, "lost+found/x.png", "a/__MACOSX/1.png", "a/.hidden.png")
    portions = list(list_folder(StoragePath.of(tmp_path), RULE))
    assert [image.id for image in images_of(portions)] == ["a/1.png"]
    assert sum(sum(portion.passed_over.values()) for portion in portions) == 7


def test_what_is_passed_over_is_named_by_its_kind(tmp_path: Path) -> None:
    for name in ("a.png", "b.TXT", "c.txt", "d.svg", "README", ".hidden", "x.eps", ".git/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    kinds = Counter[str]()
    for portion in list_folder(StoragePath.of(tmp_path), RULE):
        kinds.update(portion.passed_over)
    assert describe_passed_over(kinds) == (
        "; 6 other files passed over: 2 .txt, 1 .eps, 1 .svg, 1 hidden, 1 no ending; 1 hidden folders and folders of "
        "the system not entered"
    )
    assert describe_passed_over({}) == ""
