from dataclasses import replace
from pathlib import Path

import pytest

from overlay.config import OverlayStyle, Split
from overlay.dataset.card import DATASET_FORMAT, DatasetCard, DatasetRequest, write_card
from overlay.errors import RequestError
from overlay.preparation import output_folder
from overlay.preparation.output_folder import WORK
from overlay.storage.path import StoragePath

REQUEST = DatasetRequest(["/data/busi"], OverlayStyle(), Split(), 1000, 256, "ab" * 32)
OTHER = replace(REQUEST, max_pixels=5)


def already_prepared(out: Path, request: DatasetRequest, overwrite: bool) -> bool:
    return output_folder.already_prepared(StoragePath.of(out), request, overwrite)


def begin(out: Path, request: DatasetRequest, overwrite: bool) -> Path:
    return Path(output_folder.begin_dataset(StoragePath.of(out), request, overwrite).path)


def finished(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "part-00000.parquet").touch()
    write_card(
        folder,
        DatasetCard(
            DATASET_FORMAT, "0.1.0", "code", "fingerprint", [], {}, 0, 0, 0, True, 0, 0, {}, {}, {}, 0, 1, REQUEST, {}
        ),
    )
    return folder


def test_absent_and_empty_folders_are_free(tmp_path: Path) -> None:
    assert not already_prepared(tmp_path, REQUEST, False)
    assert not already_prepared(tmp_path / "new" / "deep", REQUEST, False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".overlay-lock").touch()
    assert not already_prepared(tmp_path, REQUEST, False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_something_else_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RequestError, match="holds something else than a prepared dataset"):
        already_prepared(tmp_path, REQUEST, overwrite)
    with pytest.raises(RequestError, match=r"thesis\.tex is a file"):
        already_prepared(tmp_path / "thesis.tex", REQUEST, overwrite)
    (tmp_path / "dataset.json").write_text('{"title": "a card of another tool"}')
    with pytest.raises(RequestError, match="no card of a dataset of ours"):
        already_prepared(tmp_path, REQUEST, overwrite)


def test_the_same_request_is_done(tmp_path: Path) -> None:
    out = finished(tmp_path / "out")
    assert already_prepared(out, REQUEST, False)
    assert not already_prepared(out, REQUEST, True)


def test_another_request_names_the_option_and_the_way_out(tmp_path: Path) -> None:
    out = finished(tmp_path / "out")
    with pytest.raises(RequestError, match="max_pixels is 1000 there and 5 here; replace it with --overwrite"):
        already_prepared(out, OTHER, False)
    assert not already_prepared(out, OTHER, True)


def test_a_half_done_dataset_goes_on_with_its_staged_files(tmp_path: Path) -> None:
    staged = begin(tmp_path / "out", REQUEST, False)
    (staged / "part-00000.parquet").touch()
    (staged / ".part-00001.parquet.ab.tmp").touch()
    assert not already_prepared(tmp_path / "out", REQUEST, False)
    with pytest.raises(RequestError, match="max_pixels is 1000 there and 5 here"):
        already_prepared(tmp_path / "out", OTHER, False)
    assert begin(tmp_path / "out", REQUEST, False) == staged
    assert [file.name for file in staged.iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize("request_now", [REQUEST, OTHER])
def test_overwriting_a_half_done_dataset_begins_anew(tmp_path: Path, request_now: DatasetRequest) -> None:
    (begin(tmp_path, REQUEST, False) / "part-00000.parquet").touch()
    assert not already_prepared(tmp_path, request_now, True)
    assert list(begin(tmp_path, request_now, True).iterdir()) == []
    assert not already_prepared(tmp_path, request_now, False)


def test_overwriting_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    out = finished(tmp_path / "out")
    (out / "notes.txt").touch()
    begin(out, OTHER, True)
    assert sorted(entry.name for entry in out.iterdir()) == [WORK, "data", "notes.txt"]
    assert list((out / "data").iterdir()) == []


def test_killed_before_the_request_was_written(tmp_path: Path) -> None:
    (tmp_path / WORK).mkdir()
    assert not already_prepared(tmp_path, REQUEST, False)
    begin(tmp_path, REQUEST, False)
    with pytest.raises(RequestError, match="max_pixels"):
        already_prepared(tmp_path, OTHER, False)
