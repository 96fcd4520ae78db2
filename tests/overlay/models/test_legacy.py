"""Model files of other programs, made in the ways in which people make them."""

import copy
import os
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from overlay.config import Input, Legacy
from overlay.errors import RequestError
from overlay.models import model_file

NOTE = "taken as usual: classes benign, malignant, normal; 224 pixels; resize rule crop; ImageNet's mean and standard "


@cache
def trained() -> nn.Module:
    """As after some training: the statistics of batch normalisation are not those of a new network."""
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.resnet18(num_classes=3)
    with torch.no_grad():
        network(torch.randn(4, 3, 64, 64))
    return network


def resnet(head: nn.Module | None = None) -> nn.Module:
    network = copy.deepcopy(trained())
    if head is not None:
        network.fc = head
    return network


def probabilities(network: nn.Module) -> Tensor:
    torch.manual_seed(1)
    with torch.inference_mode():
        outputs: Tensor = network.eval()(torch.randn(3, 3, 64, 64))
    sums = outputs.sum(dim=1)
    if torch.allclose(outputs.exp().sum(dim=1), torch.ones(3)):
        return outputs.exp()
    return outputs if torch.allclose(sums, torch.ones(3), atol=1e-5) else outputs.softmax(dim=1)


def refusal(file: Path, options: Legacy | None = None) -> str:
    with pytest.raises(RequestError) as error:
        model_file.load_model_file(file, options)
    assert "\n" not in str(error.value)
    return str(error.value)


def udacity() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            [
                ("fc1", nn.Linear(512, 16)),
                ("relu", nn.ReLU()),
                ("dropout", nn.Dropout(0.2)),
                ("fc2", nn.Linear(16, 3)),
                ("output", nn.LogSoftmax(dim=1)),
            ]
        )
    )


def nested() -> nn.Module:
    block = nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2, inplace=True))
    return nn.Sequential(nn.Flatten(), nn.Dropout(), block, nn.Linear(8, 3), nn.Softmax(dim=-1))


HEADS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "linear": (lambda: nn.Linear(512, 3), ()),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 3)), ()),
    "softmax": (lambda: nn.Sequential(nn.Linear(512, 3), nn.Softmax(dim=1)), ()),
    "log_softmax": (lambda: nn.Sequential(nn.Linear(512, 3), nn.LogSoftmax(dim=1)), ()),
    "two layers": (
        lambda: nn.Sequential(nn.Linear(512, 16), nn.ReLU(inplace=True), nn.Dropout(0.4), nn.Linear(16, 3)),
        ("Linear(512, 16)", "ReLU()", "Dropout(0.4)", "Linear(16, 3)"),
    ),
    "named layers": (udacity, ("Linear(512, 16)", "ReLU()", "Dropout(0.2)", "Linear(16, 3)")),
    "nested": (
        nested,
        (
            "Flatten(1, -1)",
            "Dropout(0.5)",
            "Linear(512, 8)",
            "BatchNorm1d(8, 1e-05)",
            "LeakyReLU(0.2)",
            "Linear(8, 3)",
        ),
    ),
}
WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "whole": lambda network: network,
    "whole, in parallel": nn.DataParallel,
    "model": lambda network: {"model": network, "epoch": 12, "best_acc": 0.93},
    "model and state": lambda network: {
        "model": network,
        "model_state_dict": network.state_dict(),
        "class_names": ["benign", "malignant", "normal"],
    },
    "parallel model and state": lambda network: {
        "model": nn.DataParallel(network),
        "model_state_dict": nn.DataParallel(network).state_dict(),
    },
}
STATES: dict[str, Callable[[nn.Module], Any]] = {
    "state": lambda network: network.state_dict(),
    "parallel state": lambda network: nn.DataParallel(network).state_dict(),
    "compiled state": lambda network: OrderedDict((f"_orig_mod.{n}", t) for n, t in network.state_dict().items()),
    "inner state": lambda network: OrderedDict((f"backbone.{n}", t) for n, t in network.state_dict().items()),
    "checkpoint": lambda network: {
        "epoch": 3,
        "model_state_dict": network.state_dict(),
        "optimizer_state_dict": torch.optim.SGD(network.parameters(), 0.1, momentum=0.9).state_dict(),
        "loss": torch.tensor(0.1),
    },
    "state_dict": lambda network: {"state_dict": network.state_dict(), "arch": "resnet18"},
}


def same(file: Path, original: nn.Module) -> model_file.ModelFile:
    """Load a file, and compare the probabilities."""
    loaded = model_file.load_model_file(file)
    ours = model_file.build_network(loaded)
    with torch.inference_mode():
        torch.manual_seed(1)
        found = ours(torch.randn(3, 3, 64, 64)).softmax(dim=1)
    torch.testing.assert_close(found, probabilities(original), rtol=0, atol=1e-6)
    return loaded


@pytest.mark.parametrize(
    ("head", "wrapper"), [(head, "whole") for head in HEADS] + [("named layers", wrapper) for wrapper in WRAPPERS]
)
def test_a_pickled_model_gives_its_probabilities(
    head: str, wrapper: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, layers = HEADS[head]
    original = resnet(make())
    file = tmp_path / "Resnet_fineTuning.pth"
    torch.save(WRAPPERS[wrapper](original), file)
    card = same(file, original).card
    assert (card.arch, card.head, card.input, card.overlay) == ("resnet18", layers, Input(224, "crop"), None)
    assert card.classes == ("benign", "malignant", "normal")
    printed = capsys.readouterr().out
    assert printed.startswith(f"{file} is a resnet18 without a card")
    assert printed.count("\n") == 1
    assert (NOTE in printed) == (wrapper != "model and state")


@pytest.mark.parametrize(
    ("head", "wrapper"), [("linear", wrapper) for wrapper in STATES] + [("dropout", "state"), ("log_softmax", "state")]
)
def test_a_state_dict_gives_the_probabilities(head: str, wrapper: str, tmp_path: Path) -> None:
    original = resnet(HEADS[head][0]())
    torch.save(STATES[wrapper](original), tmp_path / "m.pth")
    assert same(tmp_path / "m.pth", original).card.head == ()


def test_the_format_of_old_files_is_read_too(tmp_path: Path) -> None:
    original = resnet()
    state = {name: tensor for name, tensor in original.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    same(tmp_path / "m.pth", original)


@pytest.mark.parametrize("content", ["model", "state"])
def test_tensors_of_a_gpu_are_read_without_one(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = resnet()
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    torch.save(original if content == "model" else original.state_dict(), tmp_path / "m.pth")
    same(tmp_path / "m.pth", original)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    torch.save(resnet().half(), tmp_path / "m.pth")
    loaded = model_file.load_model_file(tmp_path / "m.pth")
    assert {tensor.dtype for tensor in loaded.state.values()} == {torch.float32, torch.int64}


def test_options_say_what_the_file_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.pth"
    network: nn.Module = torchvision.models.resnet18(num_classes=2)
    torch.save(network.state_dict(), file)
    assert refusal(file) == (
        f"{file} has 2 outputs and no class names; give --legacy.classes with 2 names, separated by commas, in the "
        "order of the outputs"
    )
    assert refusal(file, Legacy(classes="a,b,c")) == (
        f"{file} has 2 outputs and the class names a, b, c; give --legacy.classes with 2 names, separated by commas, "
        "in the order of the outputs"
    )
    card = model_file.load_model_file(file, Legacy(classes="a, b", size=64, resize="pad")).card
    assert (card.classes, card.input) == (("a", "b"), Input(64, "pad"))
    assert capsys.readouterr().out == (
        f"{file} is a resnet18 without a card; taken as usual: ImageNet's mean and standard deviation; "
        "images without their masks drawn on them (see --legacy.*)\n"
    )


class Payload:
    """Pickled, it runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._trace}",)


def test_a_planted_payload_is_refused_and_never_run(tmp_path: Path) -> None:
    file, trace = tmp_path / "Resnet_fineTuning.pth", tmp_path / "trace"
    inside = resnet()
    inside.layer4[1].conv2.planted = Payload(trace)  # type: ignore[index, union-attr]
    in_head = resnet(nn.Sequential(nn.Linear(512, 3)))
    vars(in_head.fc)["_modules"]["1"] = Payload(trace)
    for content in (
        Payload(trace),
        {"model": resnet(), "model_state_dict": resnet().state_dict(), "class_names": Payload(trace)},
        {"state_dict": OrderedDict(resnet().state_dict(), planted=Payload(trace))},
        inside,
        in_head,
    ):
        torch.save(content, file)
        assert refusal(file).startswith(f"{file} holds {os.system.__module__}.system, which is no part of torchvision")
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # so it would have run


def test_what_an_allowed_object_brings_along_is_dropped(tmp_path: Path) -> None:
    original = resnet()
    expected = probabilities(original)
    vars(original)["forward"] = nn.Identity()
    vars(original)["extra_repr"] = nn.Softmax(dim=1)
    torch.save(original, tmp_path / "m.pth")
    ours = model_file.build_network(model_file.load_model_file(tmp_path / "m.pth"))
    torch.testing.assert_close(probabilities(ours), expected)


class Notebook(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = resnet()


def test_what_is_no_network_of_torchvision_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.pth"

    def said(content: object) -> str:
        torch.save(content, file)
        return refusal(file).removeprefix(f"{file} ")

    def changed(change: Callable[[Any], None]) -> nn.Module:
        network = resnet()
        change(network)
        return network

    assert said(Notebook()).startswith(f"holds {__name__}.Notebook, which is no part of torchvision's networks")
    strided = changed(lambda n: setattr(n.layer2[0].conv1, "stride", (1, 1)))
    assert said(strided).startswith(
        "is not torchvision's resnet18: layer2.0.conv1.stride is (1, 1), not (2, 2); it would give other probabilities"
    )
    pooled = changed(lambda n: setattr(n, "maxpool", nn.Identity()))
    assert said(pooled).startswith("is not torchvision's resnet18: maxpool is Identity, not MaxPool2d")
    more = changed(lambda n: n.add_module("more", nn.ReLU()))
    assert said(more).startswith("is not torchvision's resnet18: it has more beside")
    assert said(resnet(nn.Sequential(nn.Linear(512, 3), nn.Softmax(dim=0)))).startswith(
        "has a head that ends with Softmax; probabilities are "
    )
    assert said(resnet(nn.Sequential(nn.Softmax(dim=0), nn.Linear(512, 3)))).startswith("has a layer Softmax in its ")
    assert said(resnet(nn.Sequential(nn.Linear(512, 4), nn.ReLU(), nn.Linear(4, 3))).state_dict()) == (
        "has a head of several layers (fc.0, fc.2), and weights alone don't say what lies between them; give the file "
        "of the whole model, as torch.save(model, ...) writes it"
    )
    sigmoid = resnet(nn.Sequential(nn.Linear(512, 3), nn.Sigmoid()))
    assert said(sigmoid).startswith(
        "has a head that ends with Sigmoid; probabilities are the softmax of a Linear layer"
    )
    assert said(resnet(nn.Linear(512, 1))).startswith("has one output, which has no softmax")
    headless = {name: tensor for name, tensor in resnet().state_dict().items() if not name.startswith("fc.")}
    assert said(headless).startswith("has no weights of a head called fc, as torchvision's resnet18 has")
    deep: nn.Module = nn.Identity()
    for _ in range(50):
        deep = nn.Sequential(deep)
    assert said(deep).startswith("is no network of torchvision: its modules lie 13 deep")
    assert said({"model": 3}).startswith("holds no state_dict, or a damaged one")
    empty = resnet()
    empty.__dict__.pop("_parameters")
    assert said(empty).startswith("holds no model that can be read: ")
