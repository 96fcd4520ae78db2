"""The way from words to a configuration and back."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from overlay.cli.parser import parse_arguments, to_words
from overlay.cli.verbs import USAGE, VERBS, Config
from overlay.config import (
    Augment,
    Demo,
    EarlyStopping,
    Evaluate,
    Export,
    Input,
    Loop,
    Model,
    Optimizer,
    Predict,
    Prepare,
    Split,
    Submit,
    Tracking,
    Train,
)
from overlay.config.options import option_types
from overlay.errors import RequestError

PATHS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).filter(
    lambda text: text.strip() and text != "--"
)
NAMES = st.none() | st.from_regex(r"[a-z]{5}[a-z0-9 _:.=-]{0,8}", fullmatch=True)
SHARES = st.floats(0, 0.99)


def configs(paths: st.SearchStrategy[str]) -> st.SearchStrategy[Config]:
    return st.one_of(
        st.builds(
            Prepare, sources=st.lists(paths, min_size=1), out=paths, overwrite=st.booleans(), shard_rows=st.integers(1)
        ),
        st.builds(
            Train,
            dataset=paths,
            out=paths,
            input=st.builds(Input, size=st.integers(32, 2048)),
            augment=st.builds(Augment, flip=SHARES, zoom=SHARES),
            model=st.builds(Model, weights=paths),
            optimizer=st.builds(Optimizer, lr=st.floats(1e-9, 1), warmup=SHARES),
            early_stopping=st.builds(EarlyStopping, metric=st.sampled_from(["val_loss", "val_accuracy"])),
            train=st.builds(Loop, epochs=st.integers(1), batch_size=st.integers(16)),
            tracking=st.builds(Tracking, entity=NAMES, name=NAMES),
        ),
        st.builds(Evaluate, model=paths, dataset=paths, out=paths, split=st.sampled_from(["train", "val", "test"])),
        st.builds(
            Predict, model=paths, inputs=st.lists(paths, min_size=1), out=paths, actors=st.none() | st.integers(1)
        ),
        # Where null is a value too, what YAML reads as null (~, a lone #) is null.
        st.builds(Export, model=paths, format=st.sampled_from(["safetensors", "onnx"]), out=paths.map("/{}".format)),
        st.builds(Demo, out=paths, seed=st.integers(0, 2**32 - 1)),
    )


@pytest.mark.parametrize("words", [["--out=--"], ["--out", "o", "--", "--"]])
def test_two_dashes_are_no_value(words: list[str]) -> None:
    with pytest.raises(RequestError, match=r"^--out is '--', which ends the options|^'--' is one argument too many"):
        parse_arguments("demo", words)


@given(configs(PATHS))
def test_the_words_of_a_configuration_are_read_back_as_the_same(config: Config) -> None:
    verb, *words = to_words(config)
    assert parse_arguments(verb, words) == config


# A path such as 0E0 would be written by PyYAML without quotes and read by jsonargparse as a number.
@given(configs(PATHS.map("/{}".format)))
def test_the_file_of_a_configuration_is_read_back_as_the_same(
    tmp_path_factory: pytest.TempPathFactory, config: Config
) -> None:
    file = tmp_path_factory.getbasetemp() / "config.yaml"
    file.write_text(yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True))
    assert parse_arguments(type(config).__name__.lower(), ["--config", str(file)]) == config


def test_words_are_positional_arguments_and_what_differs_from_the_defaults() -> None:
    config = Predict(model="/m.pth", inputs=["/a", "/b"], out="/o", overwrite=True, actors=2)
    assert to_words(config) == [
        "predict",
        "/m.pth",
        "/a",
        "/b",
        "--out=/o",
        "--actors=2",
        "--overwrite=true",
    ]


def test_a_section_may_have_defaults_of_its_own() -> None:
    config = Predict(model="/m.pth", inputs=["-"], out="/o", tracking=Tracking(mode="auto"))
    assert to_words(config) == ["predict", "--out=/o", "--tracking.mode=auto", "--", "/m.pth", "-"]
    assert parse_arguments("predict", to_words(config)[1:]) == config
    assert parse_arguments("predict", ["/m.pth", "-", "--out=/o"]) == replace(
        config, tracking=Tracking(mode="disabled")
    )


def test_positional_arguments_go_in_order() -> None:
    expected = Predict(model="m", inputs=["a", "b"], out="o")
    assert parse_arguments("predict", ["m", "a", "b", "--out", "o"]) == expected
    assert parse_arguments("predict", ["--out=o", "m", "a", "b"]) == expected
    assert parse_arguments("predict", ["--out", "o", "m", "--", "a", "b"]) == expected
    assert parse_arguments("evaluate", ["m", "d", "--out", "o"]) == Evaluate(model="m", dataset="d", out="o")


def test_a_switch_stands_alone_or_has_a_value() -> None:
    for words, overwrite in (
        (["--overwrite"], True),
        (["--overwrite", "true"], True),
        (["--overwrite", "false"], False),
        (["--overwrite=false"], False),
    ):
        assert parse_arguments("prepare", ["s", "--out", "o", *words]) == Prepare(
            sources=["s"], out="o", overwrite=overwrite
        )


def test_everything_after_the_dashes_is_the_job() -> None:
    config = parse_arguments("submit", ["--address", "http://h:8265", "--", "train", "/d", "--out", "/r", "--", "x"])
    assert config == Submit(address="http://h:8265", job=["train", "/d", "--out", "/r", "--", "x"])


@pytest.mark.parametrize("order", ["file first", "file last"])
def test_the_command_line_counts_more_than_the_file(tmp_path: Path, order: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("dataset: from-file\nout: run\ntrain: {epochs: 3, batch_size: 8}\n")
    words = ["here", "--train.epochs", "5"]
    words = ["--config", str(file), *words] if order == "file first" else [*words, f"--config={file}"]
    assert parse_arguments("train", words) == Train(dataset="here", out="run", train=Loop(epochs=5, batch_size=8))


def test_the_printed_configuration_is_whole_and_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["m.pth", "a", "b", "--out", "o", "--actors", "2"]
    with pytest.raises(SystemExit) as done:
        parse_arguments("predict", [*words, "--print_config"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    config = Predict(model="m.pth", inputs=["a", "b"], out="o", actors=2)
    assert yaml.safe_load(printed) == asdict(config)
    file = tmp_path / "c.yaml"
    file.write_text(printed)
    assert parse_arguments("predict", ["--config", str(file)]) == config == parse_arguments("predict", words)


@pytest.mark.parametrize(
    ("verb", "words", "message"),
    [
        ("train", ["d", "--out", "o", "--train.epochs", "ten"], "train.epochs is 'ten'; it must be a whole number"),
        ("train", ["d", "--out", "o", "--optimizer.lr=x"], "optimizer.lr is 'x'; it must be a number"),
        (
            "train",
            ["d", "--out", "o", "--early_stopping.metric", "loss"],
            "early_stopping.metric is 'loss'; it must be one of val_loss, val_accuracy, val_macro_f1",
        ),
        ("predict", ["m", "i", "--out", "o", "--actors", "x"], "actors is 'x'; it must be a whole number or null"),
        ("predict", ["m", "i", "--out", "o", "--device=mps"], "device is 'mps'; it must be one of auto, cpu, cuda"),
        ("predict", ["m", "i", "--out", "o", "--batch_size=0"], "batch_size is 0; it must be at least 1, or auto"),
        (
            "predict",
            ["m", "i", "--out", "o", "--batch_size=all"],
            "batch_size is 'all'; it must be a whole number or one of auto",
        ),
        ("train", ["d", "--out", "o", "--train.epochs", "0"], "train.epochs is 0; it must be at least 1"),
        ("train", ["d", "--out", "o", "--train.seed=-1"], "train.seed is -1; it must be at least 0 and below 2**32"),
        ("demo", ["--seed=-1"], "seed is -1; it must be at least 0 and below 2**32"),
        (
            "train",
            ["d", "--out", "o", "--train.epoch", "3"],
            "there is no option --train.epoch; did you mean train.epochs?",
        ),
        ("train", ["d", "--out", "o", "--zzz"], "there is no option --zzz"),
        ("train", ["d", "--out", "o", "-q"], "there is no option -q"),
        ("train", ["d", "--out"], "--out has no value; give a text after it"),
        ("train", ["d", "--out", "--train.epochs", "3"], "--out has no value; give a text after it"),
        ("train", ["d"], "not given: out; the order is: overlay train DATASET|FOLDER --out RUN"),
        (
            "predict",
            ["m", "--out", "o"],
            "not given: inputs; the order is: overlay predict MODEL.pth INPUT... --out DIR",
        ),
        (
            "train",
            ["d", "e", "--out", "o"],
            "'e' is one argument too many; the order is: overlay train DATASET|FOLDER --out RUN",
        ),
    ],
)
def test_a_wrong_request_is_answered_in_one_line(verb: str, words: list[str], message: str) -> None:
    with pytest.raises(RequestError) as refusal:
        parse_arguments(verb, words)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augment: {rotatin: 3}", "there is no option augment.rotatin; did you mean augment.rotation?"),
        ("augmnt: {rotation: 3}", "there is no option augmnt.rotation; did you mean augment.rotation?"),
        ("tracking: {entity: 3}", "tracking.entity is '3'; it must be a text or null"),
        ("dataset: [a]", "dataset is \"['a']\"; it must be a text"),
    ],
)
def test_a_wrong_file_is_answered_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"out: o\n{text}\n")
    with pytest.raises(RequestError) as refusal:
        parse_arguments("train", ["--config", str(file)])
    assert str(refusal.value) == message


@pytest.mark.parametrize("text", ["augment: {rotation: [3", "- 3", "", "augment: 3", "\x00", "train: null"])
def test_a_broken_file_is_answered_in_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(RequestError) as refusal:
        parse_arguments("train", ["--config", str(file)])
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--config: .*none\.yaml"):
        parse_arguments("train", ["d", "--out", "o", "--config", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_option_of_the_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        parse_arguments(verb, ["--help"])
    assert done.value.code == 0
    printed = capsys.readouterr().out
    assert USAGE[verb] in printed
    # Python 3.13 names the value of an option with two spellings once, after both: --inputs, --inputs+ [ITEM,...].
    assert [key for key in option_types(VERBS[verb]) if not re.search(rf"--{key}[ ,]", printed)] == []


def test_options_have_dotted_names() -> None:
    assert list(option_types(Split)) == [
        "train",
        "val",
        "test",
        "seed",
        "group_by",
        "ungrouped",
        "folds",
        "only",
        "column",
    ]
    assert "overlay.color" in option_types(Prepare)


def test_a_map_has_texts_as_keys_and_is_written_back() -> None:
    words = ["s", "--out=o", "--labels.column=t.csv:dx", "--labels.map={0: benign, Benign: benign}"]
    config = parse_arguments("prepare", words)
    assert isinstance(config, Prepare)
    assert config.labels.map == {"0": "benign", "Benign": "benign"}
    assert parse_arguments("prepare", to_words(config)[1:]) == config
    with pytest.raises(RequestError, match=r"labels\.map is 'x'; it must be a map such as \{0: benign, 1: malignant\}"):
        parse_arguments("prepare", ["s", "--out=o", "--labels.map=x"])


def test_a_positional_argument_may_be_given_by_its_name() -> None:
    config = parse_arguments("predict", ["--model", "run-0,run-1", "a.png", "b.png", "--out", "out"])
    assert isinstance(config, Predict)
    assert (config.model, config.inputs) == ("run-0,run-1", ["a.png", "b.png"])
