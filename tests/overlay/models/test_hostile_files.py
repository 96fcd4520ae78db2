"""Short hostile model files, through the functions that the verbs call: refused, in bounded memory and time."""

import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from overlay.errors import RequestError
from overlay.models.model_file import ModelCard, card_metadata, checksum, load_model_file, read_state
from overlay.models.network import create_network, without_memory

PEAK = 64 * 2**20


def expanded(shape: torch.Size) -> torch.Tensor:
    """A tensor of one number in the file."""
    return torch.zeros(1).expand(shape)


def refused(content: object, folder: Path) -> list[str]:
    """Write a file, and return how `predict` and `--model.weights` refuse it."""
    file = folder / "m.pth"
    torch.save(content, file)
    assert file.stat().st_size < 2_000_000
    said = []
    for load in (load_model_file, lambda path: read_state(path, str(path))):
        try:
            load(file)
        except RequestError as error:
            said.append(str(error))
    return said


def test_tensors_of_one_number(tmp_path: Path) -> None:
    """Their copies would take 551 MiB for 1.3 KB: a head of half a million outputs, on any network."""
    state = OrderedDict((name, tensor.clone()) for name, tensor in create_network("resnet18", 3).state_dict().items())
    head: dict[str, Any] = {"fc.weight": expanded(torch.Size((2**18, 512))), "fc.bias": expanded(torch.Size((2**18,)))}
    tracemalloc.start()
    assert len(refused(head, tmp_path)) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < PEAK
    with without_memory():
        shapes = {name: tensor.shape for name, tensor in create_network("vit_l_16", 3).state_dict().items()}
    assert len(refused({name: expanded(shape) for name, shape in shapes.items()}, tmp_path)) == 2
    (tmp_path / "m.pth").unlink()
    torch.save(state | head, tmp_path / "m.pth")
    with pytest.raises(RequestError, match=r"holds no state_dict, or a damaged one"):
        load_model_file(tmp_path / "m.pth")


def nested(width: int, depth: int, inner: object, **more: object) -> Any:  # noqa: ANN401
    """Dictionaries of which each has the next one under many names; a pickle holds each once."""
    for _ in range(depth):
        inner = {f"part{number}": inner for number in range(width)} | more
    return inner


def test_one_object_under_many_names(tmp_path: Path) -> None:
    network = create_network("resnet18", 3)
    weights = {f"w{number}": torch.zeros(1) for number in range(200)}
    many = {f"k{number}": weights for number in range(20_000)}
    assert "more than 200000 entries" in refused(many, tmp_path)[0]
    options = nested(300, 6, {"x": 1})
    (tmp_path / "m.pth").unlink()
    torch.save({"state_dict": network.state_dict(), "config": options}, tmp_path / "m.pth")
    with pytest.raises(RequestError, match="more than 200000 entries"):
        load_model_file(tmp_path / "m.pth")


def test_modules_within_modules(tmp_path: Path) -> None:
    inner: nn.Module = nn.Identity()
    for _ in range(11):
        outer = nn.Module()
        outer._modules = {f"m{number}": inner for number in range(50)}
        inner = outer
    assert all("more than 200000 entries" in each for each in refused(inner, tmp_path))
    head: nn.Module = nn.Identity()
    for _ in range(11):
        head = nn.Sequential(*[head] * 50)
    network = nn.Module()
    network.fc = head
    assert refused(network, tmp_path)


WRONG: dict[str, object] = {
    "arch": "os.system",
    "classes": ("a", "a"),
    "size": 10**9,
    "resize": "stretch",
    "mean": (0.5, 0.5, float("nan")),
    "std": (0.0, 1.0, 1.0),
    "overlay": {"style": "fill", "color": "red"},
    "dataset": ["s3://bucket"],
    "version": 3,
    "max_pixels": 10**40,
    "head": ("Linear(2, 2", "__import__('os').system('x')"),
    "fold": True,
    "temperature": float("nan"),
    "threshold": 2.0,
    "threshold_n": -1,
    "uncertain_below": float("nan"),
    "positive": "c",
    "bits": 10**6,
    "max_side": 0,
    "endpoint": "http://127.0.0.1",
}


@pytest.fixture(scope="module")
def network_state() -> "OrderedDict[str, torch.Tensor]":
    return OrderedDict(create_network("resnet18", 2).state_dict())


@pytest.mark.parametrize("field", WRONG)
def test_a_card_is_checked_field_by_field(
    field: str, network_state: "OrderedDict[str, torch.Tensor]", tmp_path: Path
) -> None:
    """With a right checksum: whoever writes a card can compute it."""
    card = ModelCard(
        arch="resnet18",
        classes=("a", "b"),
        size=64,
        resize="crop",
        mean=(0.5, 0.5, 0.5),
        std=(1.0, 1.0, 1.0),
        overlay=None,
        dataset="",
        weights="",
        version="",
    )
    described = card_metadata(card) | {field: WRONG[field]}
    state = OrderedDict(network_state)
    state.overlay = {**described, "sha256": checksum(state, described)}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(RequestError) as refusal:
        load_model_file(tmp_path / "m.pth")
    assert field in str(refusal.value) or "layer" in str(refusal.value)
    assert "\n" not in str(refusal.value)
