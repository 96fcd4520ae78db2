import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from overlay.cli import parser
from overlay.config import Augment, Input, Loop, Model, Optimizer, Tracking, Train
from overlay.errors import RequestError
from overlay.storage.path import StoragePath
from overlay.training.run_folder import RunFacts, RunFolder, open_run

FACTS = RunFacts(batch_size=32, precision="bf16", order="windowed", engine="torch", device="cuda", workers=2)


@pytest.fixture
def config(tmp_path: Path) -> Train:
    return Train(dataset="dataset", out=str(tmp_path / "run"))


def begun(config: Train, fingerprint: str = "f1") -> RunFolder:
    folder = open_run(config)
    folder.begin(config, fingerprint, FACTS)
    return folder


def refused(config: Train) -> str:
    with pytest.raises(RequestError) as refusal:
        open_run(config)
    message = str(refusal.value)
    assert "\n" not in message
    return message


def test_a_run_begins_goes_on_and_finishes(config: Train) -> None:
    folder = open_run(config)
    assert not folder.path.exists()
    assert not folder.finished
    folder.begin(config, "f1", FACTS)
    assert folder.path.children() == ["checkpoints", "config.yaml", "run.json"]
    again = begun(config)
    assert again.tracking_id == folder.tracking_id
    assert len(folder.tracking_id) == 8
    assert not again.finished
    again.finish()
    assert open_run(config).finished
    assert open_run(config).tracking_id == folder.tracking_id


def test_a_run_in_a_bucket(config: Train, new_bucket: Callable[[], str]) -> None:
    there = replace(config, out=str(StoragePath.of(new_bucket()) / "run"))
    folder = open_run(there)
    assert folder.path.children() == []
    begun(there)
    assert begun(there).tracking_id == folder.tracking_id
    assert folder.path.children() == ["config.yaml", "run.json"]
    changed = replace(there, input=Input(size=64))
    assert refused(changed).endswith("with input.size 224, not 64; give the same options to go on, or another --out")
    assert "is a file; name a folder" in refused(replace(there, out=str(folder.config_file)))
    folder.finish()
    assert open_run(there).finished


def test_two_runs_are_tracked_apart(tmp_path: Path) -> None:
    ids = {begun(Train(dataset="d", out=str(tmp_path / name))).tracking_id for name in "ab"}
    assert len(ids) == 2


def test_a_file_is_refused(config: Train, tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    assert refused(config) == f"--out {tmp_path}/run is a file; name a folder"


@pytest.mark.parametrize("content", ["learning: fast\n", "- 1\n", "a: [", "", "\x00", "dataset: d\nout: o\n"])
def test_the_configuration_of_something_else_is_refused(config: Train, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(content)
    assert refused(config) == f"--out {tmp_path}/run holds something else (config.yaml); choose an empty folder"


def test_other_files_are_refused(config: Train, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "dataset").mkdir()
    assert refused(config) == f"--out {tmp_path}/run holds something else (checkpoints); choose an empty folder"


def test_a_folder_with_only_the_dataset_prepared_for_the_run_will_do(config: Train, tmp_path: Path) -> None:
    (tmp_path / "run" / "dataset").mkdir(parents=True)
    for stray in (".DS_Store", ".overlay-lock", ".nfs0001"):
        (tmp_path / "run" / stray).touch()
    assert begun(config).dataset == StoragePath.of(tmp_path / "run" / "dataset")


@pytest.mark.parametrize(
    "written", [[], [".config.yaml.0123.tmp"], ["config.yaml"], ["config.yaml", ".run.json.0.tmp"]]
)
def test_a_run_that_was_killed_while_it_began_can_begin_again(
    config: Train, tmp_path: Path, written: list[str]
) -> None:
    begun(replace(config, out=str(tmp_path / "other")))
    (tmp_path / "run").mkdir()
    for name in written:
        source = tmp_path / "other" / name
        (tmp_path / "run" / name).write_text(source.read_text() if source.exists() else "tor")
    assert begun(config).tracking_id


@pytest.mark.parametrize(
    ("option", "change"),
    [
        ("augment.rotation", {"augment": Augment(rotation=5)}),
        ("input.size", {"input": Input(size=64)}),
        ("model.weights", {"model": Model(weights="none")}),
        ("optimizer.lr", {"optimizer": Optimizer(lr=1e-5)}),
        ("train.epochs", {"train": Loop(epochs=7)}),
        ("train.seed", {"train": Loop(seed=1)}),
        ("tracking.project", {"tracking": Tracking(project="p")}),
    ],
)
def test_another_option_is_refused_by_its_name(config: Train, option: str, change: dict[str, Any]) -> None:
    begun(config)
    section, _, name = option.partition(".")
    before, now = (getattr(getattr(each, section), name) for each in (config, replace(config, **change)))
    assert refused(replace(config, **change)) == (
        f"{config.out} was begun with {option} {before}, not {now}; give the same options to go on, or another --out"
    )


def test_where_it_runs_and_where_the_dataset_lies_may_change(config: Train) -> None:
    begun(config)
    moved = replace(
        config, dataset="moved", train=Loop(workers=2, device="cpu"), tracking=replace(config.tracking, mode="offline")
    )
    folder = begun(moved)
    assert parser.parse_arguments("train", ["--config", str(folder.config_file)]) == moved


def test_another_dataset_is_refused_and_nothing_is_changed(config: Train) -> None:
    folder = begun(config)
    before = {name: (folder.path / name).read_bytes() for name in folder.path.files()}
    with pytest.raises(RequestError, match=r"run holds a run on another dataset than dataset; choose another --out$"):
        folder.begin(replace(config, train=Loop(workers=2)), "f2", FACTS)
    assert {name: (folder.path / name).read_bytes() for name in folder.path.files()} == before


@pytest.mark.parametrize("word", ["12", "yes", "ünder: #1", "  ", "- a"])
def test_the_configuration_is_read_back_as_it_was(config: Train, word: str) -> None:
    odd = replace(
        config,
        dataset=word,
        optimizer=Optimizer(lr=1e-9),
        tracking=Tracking(project=word, entity=word, name=None),
    )
    assert parser.parse_arguments("train", ["--config", str(begun(odd).config_file)]) == odd


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert begun(Train(dataset="d", out="~/run")).path == StoragePath.of(tmp_path / "run")


def test_the_run_s_own_record(config: Train) -> None:
    folder = begun(config)
    assert json.loads((folder.path / "run.json").read_bytes()) == {
        "dataset": "f1",
        "facts": asdict(FACTS),
        "tracking_id": folder.tracking_id,
        "finished": False,
    }


def test_a_run_keeps_what_it_decided_at_its_begin(config: Train) -> None:
    assert open_run(config).facts is None
    begun(config)
    open_run(config).begin(config, "f1", replace(FACTS, batch_size=64, order="memory"))
    assert open_run(config).facts == FACTS
