import tarfile
from pathlib import Path

import pytest

from overlay.errors import RequestError
from overlay.inputs import collect
from tests.overlay.test_archives import special, tar

CLASSES = ("benign", "Malignant")


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_files_and_folders(tmp_path: Path) -> None:
    folder = make(tmp_path / "x", "malignant/p/1.png", "malignant/p/1_mask.png", "2.png", "notes.txt", "3_mask.png")
    found = collect([str(folder), str(folder / "odd.bin") if make(folder, "odd.bin") else ""], CLASSES)
    assert [(image.id, image.true_label, len(image.masks), image.reason) for image in found.images] == [
        ("2.png", None, 0, None),
        ("3_mask.png", None, 0, "mask without an image"),
        ("malignant/p/1.png", "Malignant", 1, None),
        ("odd.bin", None, 0, None),
    ]
    assert found.passed_over == 2


def test_an_archive_and_what_is_wrong_in_it(tmp_path: Path) -> None:
    link = special("a/1.png", tarfile.SYMTYPE, "/etc/passwd")
    (tmp_path / "x.tar").write_bytes(
        tar({"a/1.png": b"", "a/1_mask.png": b"", "2.png": b"", "2.cls": b"BENIGN"}, link, link)
    )
    found = collect([str(tmp_path / "x.tar")], CLASSES)
    reason = "link or device within an archive: only regular files are read"
    assert [(image.id, image.member, image.masks, image.true_label, image.reason) for image in found.images] == [
        ("2.png", "2.png", (), "benign", None),
        ("a/1.png", "a/1.png", ("a/1_mask.png",), None, None),
        ("a/1.png#2", "a/1.png", (), None, reason),
        ("a/1.png#3", "a/1.png", (), None, reason),
    ]
    assert {image.uri for image in found.images} == {str(tmp_path / "x.tar")}
    assert [len(image.spans or ()) for image in found.images] == [1, 2, 0, 0]


def test_a_broken_archive_is_an_input_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, "x.zip")
    (image,) = collect([str(tmp_path / "x.zip")], CLASSES).images
    assert (image.id, image.member, image.reason) == ("x.zip", None, "empty file")


def test_nothing_to_classify(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"no image in .*; name image files, archives, or folders"):
        collect([str(make(tmp_path, "notes.txt"))], CLASSES)
    with pytest.raises(RequestError, match="input gone is not there"):
        collect(["gone"], CLASSES)
