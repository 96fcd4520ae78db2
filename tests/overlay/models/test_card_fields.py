"""Cards with wrong fields, as a damaged or hostile model file has them."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from overlay.config import OverlayStyle
from overlay.errors import RequestError
from overlay.models import model_file
from overlay.models.card_fields import read_fields

CARD = model_file.ModelCard(
    *("resnet18", ("a", "b"), 64, "pad", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), OverlayStyle(), "", "none", "0.1.0"
)
VALUES: dict[str, Any] = {k: v for k, v in model_file.card_metadata(CARD).items() if k != "format"}


def test_a_card_is_read_from_json_and_from_a_pickle() -> None:
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in VALUES.items()}
    assert read_fields(model_file.ModelCard, VALUES, "it") == read_fields(model_file.ModelCard, lists, "it") == CARD
    assert read_fields(model_file.ModelCard, VALUES | {"overlay": None}, "it").overlay is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": 3}, "arch is 3, not str"),
        ({"classes": "ab"}, "classes is 'ab', not tuple[str, ...]"),
        ({"classes": ("a", 2)}, "classes is 2, not str"),
        ({"size": 64.0}, "size is 64.0, not int"),
        ({"size": True}, "size is True, not int"),
        ({"resize": "stretch"}, "resize is 'stretch', not Literal['squash', 'pad', 'crop']"),
        ({"mean": (0.5, 0.5)}, "mean is a tuple, not tuple[float, float, float]"),
        ({"mean": (0.5, 0.5, "x")}, "mean is 'x', not float"),
        ({"overlay": {"style": "fill", "shadow": 1}}, "overlay has a field 'shadow', which is not known"),
        ({"overlay": {"style": "drawn"}}, "overlay: style is 'drawn', not Literal["),
        ({"code": {"a": 1}}, "code is a dict, not str"),
        ({"surprise": 1}, "has a field 'surprise', which is not known; update overlay"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as error:
        read_fields(model_file.ModelCard, VALUES | change, "the card of m.pth")
    assert said in str(error.value)
    assert str(error.value).startswith("the card of m.pth")


def test_a_missing_field_is_named() -> None:
    without = {name: value for name, value in VALUES.items() if name != "size"}
    with pytest.raises(RequestError, match=r"^it has no size; the file was changed or damaged$"):
        read_fields(model_file.ModelCard, without, "it")
    with pytest.raises(RequestError, match=r"^it is a list, and no dictionary"):
        read_fields(model_file.ModelCard, [1], "it")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "vgg99"}, "the card's arch is 'vgg99'"),
        ({"classes": ("a", "a")}, "the card's classes are 'a', 'a'; there must be two or more, all different"),
        ({"size": 10**6}, "the card's size is 1000000; it must lie between 32 and 2048"),
        ({"std": (0.0, 1.0, 1.0)}, "the card's std is (0.0, 1.0, 1.0); it must lie above 0"),
        ({"mean": (float("nan"), 0.5, 0.5)}, "the card's mean is (nan, 0.5, 0.5)"),
        ({"head": ("Linear(512, 100000000)", "eval('1')")}, "has a layer eval('1'); known are"),
        ({"head": ("Dropout(5)",)}, "has a layer Dropout(5), which can't be built"),
        ({"classes": ("a", "b", "c")}, "fc.weight is (2, 512) there and (3, 512) in resnet18"),
        ({"head": ("Linear(512, 2)",)}, "fc.0.weight is None there and (2, 512) in resnet18"),
        ({"overlay": {"color": "red"}}, "overlay.color is 'red'; give it as #rrggbb"),
        ({"format": "3"}, "has a card without a format"),
        ({"sha256": "0"}, "its content doesn't match its checksum"),
    ],
)
def test_a_file_with_a_wrong_card_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    state = OrderedDict(torchvision.models.resnet18(num_classes=2).state_dict())
    described = model_file.card_metadata(CARD) | change
    state.overlay = {"sha256": model_file.checksum(state, described), **described}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(RequestError) as error:
        model_file.load_model_file(tmp_path / "m.pth")
    assert said in str(error.value)
    assert str(tmp_path / "m.pth") in str(error.value)
    assert "\n" not in str(error.value)
