import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.sources.conventions import MaskConventions
from overlay.sources.mask_pairing import pair_in_steps
from overlay.sources.own_output import is_own_output
from overlay.storage.path import StoragePath
from overlay.storage.walk import WalkRule, read_stamp, walk_folder
from tests.overlay.sources.pairing import pair_masks


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


RULE = WalkRule(MaskConventions().group, is_own_output)


def walked(folder: Path) -> list[list[str]]:
    return [together.names for together in walk_folder(StoragePath.of(folder), RULE)]


def test_folders_of_images_and_masks_come_with_the_folder_that_holds_them(tmp_path: Path) -> None:
    make(
        tmp_path, "b.png", "a.png", "p/Images/x.png", "p/masks/x.png", "p/masks/q/y.png", "p/q/y.png", "images/q/z.png"
    )
    assert walked(tmp_path) == [
        ["a.png", "b.png"],
        ["p/Images/x.png", "p/masks/x.png"],
        ["p/masks/q/y.png", "p/q/y.png"],
        ["images/q/z.png"],
    ]


names = st.lists(
    st.sampled_from(["a", "images", "Masks", "b", "a_masks", "GT", "b-images", "b-gt"]), min_size=1, max_size=4
).map(lambda parts: "/".join([*parts, ("x.png", "x_mask.png", "mask_x.png", "x_gt.png")[len(parts) % 4]]))


@settings(max_examples=60)
@given(st.sets(names, min_size=1, max_size=12))
def test_what_pair_pairs_comes_together(names: set[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), *names)
        together = list(walk_folder(StoragePath.of(Path(folder)), RULE))
    assert sorted(name for each in together for name in each.names) == sorted(names)
    whole = pair_masks(names)
    parts = [part for each in together for part in pair_in_steps(each.names, MaskConventions(), each.folders)]
    found = {image: masks for part in parts for image, masks in part.images.items() if masks}
    assert found == {image: masks for image, masks in whole.images.items() if masks}


def test_links_are_followed_once_and_what_is_no_file_is_told(tmp_path: Path) -> None:
    make(tmp_path / "tree", "a/1.png", "b/2.png")
    (tmp_path / "tree" / "a" / "loop").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "c").symlink_to(make(tmp_path / "elsewhere", "3.png"))
    (tmp_path / "tree" / "4.png").symlink_to("/dev/zero")
    (tmp_path / "tree" / "5.png").symlink_to("gone")
    os.mkfifo(tmp_path / "tree" / "6.png")
    assert walked(tmp_path / "tree") == [["4.png", "5.png", "6.png"], ["a/1.png"], ["b/2.png"], ["c/3.png"]]
    (first, *others) = walk_folder(StoragePath.of(tmp_path / "tree"))
    assert first.irregular == {"4.png", "5.png", "6.png"}
    assert not any(folder.irregular for folder in others)


def test_a_stamp_tells_another_file(tmp_path: Path) -> None:
    file = make(tmp_path, "x.png") / "x.png"
    (folder,) = walk_folder(StoragePath.of(tmp_path))
    before = folder.stamp("x.png")
    assert before == read_stamp(StoragePath.of(file)) == (5, str(file.stat().st_mtime_ns))
    os.utime(file, ns=(1, 1))
    assert folder.stamp("x.png") == (5, "1")
    file.unlink()
    assert folder.stamp("x.png") == (None, None)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.png", "closed/2.png", "z/3.png")
    scan = os.scandir

    def refuse(path: str) -> object:
        if path.rstrip("/").endswith(("closed", "none")):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    found = list(walk_folder(StoragePath.of(tmp_path), RULE))
    assert [folder.names for folder in found] == [["a/1.png"], [], ["z/3.png"]]
    assert found[1].unreadable == {"closed": "folder that can't be read: Permission denied"}
    (tmp_path / "none").mkdir()
    with pytest.raises(PermissionError):
        list(walk_folder(StoragePath.of(tmp_path / "none"), RULE))
