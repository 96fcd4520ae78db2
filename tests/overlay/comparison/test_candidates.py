from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.comparison.candidates import choose_reference, name_models, read_candidates
from overlay.config import Compare, Input, Loop, Model
from overlay.errors import RequestError
from overlay.storage.atomic import write_text_atomically
from overlay.storage.path import StoragePath


def compare(**options: object) -> Compare:
    return Compare("data", "out", **options)  # type: ignore[arg-type]


def candidates_of(tmp_path: Path, text: str) -> Compare:
    file = tmp_path / "candidates.yaml"
    file.write_text(text)
    return compare(candidates=str(file), input=Input(size=64), train=Loop(epochs=3))


def test_architectures_differ_in_nothing_else(tmp_path: Path) -> None:
    small, large = read_candidates(compare(archs="resnet18, resnet50", model=Model(weights="none")))
    assert (small.name, large.name) == ("resnet18", "resnet50")
    assert (small.options.model, large.options.model) == (
        Model(arch="resnet18", weights="none"),
        Model(arch="resnet50", weights="none"),
    )
    run = large.training(StoragePath.of(tmp_path / "run"), seed=7, fold=2)
    assert (run.out, run.train.seed, run.fold, run.model.arch) == (str(tmp_path / "run"), 7, 2, "resnet50")


def test_a_file_overrides_options_of_the_command(tmp_path: Path) -> None:
    small, raw = read_candidates(
        candidates_of(
            tmp_path, "small: {model: {arch: resnet18}, train: {epochs: 10}}\nraw: {dataset: other, model.dropout: 0.5}"
        )
    )
    assert (small.options.model.arch, small.options.train.epochs, small.options.input.size) == ("resnet18", 10, 64)
    assert (raw.options.dataset, raw.options.model.dropout, raw.options.train.epochs) == ("other", 0.5, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {}\nb: {model: {arhc: resnet18}}", "candidate b: there is no option model.arhc; did you mean model.arch?"),
        ("a: {}\nb: {train: {epochs: few}}", "candidate b: train.epochs is 'few'; it must be a whole number"),
        ("a: {}\nb: {train: {epochs: 0}}", "candidate b: train.epochs is 0; it must be at least 1"),
        ("a: {}\nb: {fold: 1}", "candidate b: fold is set by compare itself"),
        ("a: {}\nb: {train: {seed: 1}}", "candidate b: train.seed is set by compare itself"),
        ("a: {}\nb: {}", "the candidates a and b are alike in every option"),
        ("a: {}", "has 1 candidates; a comparison needs two"),
        ("", "must map names of candidates"),
        ("[a, b]", "must map names of candidates"),
        ("a: 3\nb: {}", "the options of candidate a are 3; give a mapping"),
        ("../a: {}\nb: {}", "'../a' is no name of a candidate"),
        ("a: {", "which can't be read"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RequestError) as refused:
        read_candidates(candidates_of(tmp_path, text))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to compare; give finished models"),
        ({"archs": "resnet18,resnet50", "models": ["a", "b"]}, "models and archs are given"),
        ({"models": ["a"]}, "one model only, a; a comparison needs two"),
        ({"archs": "resnet18"}, "archs is resnet18, one candidate only"),
        ({"archs": "resnet18,resnet18"}, "which has two candidates alike"),
        ({"archs": "resnet18,resnet50", "seeds": "0,x"}, "seeds is '0,x'; give whole numbers"),
        ({"archs": "resnet18,resnet50", "seeds": "1,1"}, "which has the same seed twice"),
        ({"archs": "resnet18,resnet50", "train": Loop(seed=3)}, "takes its seeds from --seeds"),
        ({"archs": "resnet18,resnet50", "parallel": 0}, "parallel is 0; it must be at least 1"),
        ({"models": ["a", "b"], "train": Loop(epochs=3)}, "options of train are given, but finished models"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as refused:
        compare(**options)
    assert message in str(refused.value)


def test_a_missing_file_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match=r"candidates is nowhere\.yaml, which can't be read"):
        read_candidates(compare(candidates="nowhere.yaml"))


def test_the_reference_is_the_first_or_the_one_asked_for() -> None:
    assert choose_reference(["a", "b"], None) == "a"
    assert choose_reference(["a", "b"], "b") == "b"
    with pytest.raises(RequestError, match="reference is resnet10, which is not among the candidates: resnet101, b"):
        choose_reference(["resnet101", "b"], "resnet10")


def test_models_are_named_by_the_shortest_paths_that_tell_them_apart() -> None:
    assert name_models(["/x/run-a", "/x/run-b/"]) == ["run-a", "run-b"]
    assert name_models(["/x/a/model.pth", "/x/b/model.pth"]) == ["a-model", "b-model"]
    with pytest.raises(RequestError, match="the model /x/a is given twice"):
        name_models(["/x/a", "/x/a"])


def test_candidates_in_a_bucket(new_bucket: Callable[[], str]) -> None:
    place = StoragePath.of(new_bucket()) / "candidates.yaml"
    write_text_atomically(place, "a: {}\nb: {model.dropout: 0.5}\n")
    assert [each.name for each in read_candidates(compare(candidates=str(place)))] == ["a", "b"]
    with pytest.raises(RequestError, match=r"candidates is s3://.*, which can't be read: "):
        read_candidates(compare(candidates=str(place.parent / "other.yaml")))
    assert name_models([str(place.parent / "a"), str(place.parent / "runs/b"), "/c/m.pth"]) == ["a", "b", "m"]
