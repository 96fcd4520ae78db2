"""Weights of every family of torchvision's networks, by their own and by other names."""

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from overlay.config import Legacy
from overlay.errors import RequestError
from overlay.models import model_file
from overlay.models.network import architectures, create_network, head_name
from overlay.models.pretrained import initialise_backbone, load_pretrained
from overlay.models.torchvision_weights import FIRST_WEIGHTS, empty_network, family, rename_old_keys, skeleton
from overlay.models.weight_matching import match_backbone

FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "maxvit_t", "mnasnet0_5"),
    *("mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5"),
    *("swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32", "wide_resnet50_2"),
)
QUICK = {"densenet121", "mnasnet0_5", "mobilenet_v3_small", "resnet18"}
SWEEP = [arch if arch in QUICK else pytest.param(arch, marks=pytest.mark.slow) for arch in FAMILIES]
CLASSES = Legacy(classes="a,b,c")
State = dict[str, Tensor]


def old_keys(state: State) -> State:
    """The names that older versions of torchvision gave: those of DenseNet and of the vision transformer's MLP."""
    norm = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.(?!num_batches)")
    mlp = re.compile(r"(encoder_layer_\d+\.mlp)\.([03])\.")

    def old(name: str) -> str:
        return norm.sub(r"\1.\2.", mlp.sub(lambda found: f"{found[1]}.linear_{int(found[2]) // 3 + 1}.", name))

    return {old(name): tensor for name, tensor in state.items() if "num_batches_tracked" not in name}


def made(arch: str, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = torchvision.models.get_model(arch, num_classes=classes)
    return network.eval()


def smallest(arch: str) -> tuple[int, int]:
    """A small size of images that the network takes."""
    return (224, 224) if arch.startswith(("vit", "maxvit")) else (64, 64)


def unequal(found: State, expected: State) -> list[str]:
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    assert found.keys() >= expected.keys() - counters
    return [name for name in expected.keys() - counters if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize("old", [False, True], ids=["today's keys", "old keys"])
@pytest.mark.parametrize("arch", SWEEP)
def test_every_family_is_predicted_with(arch: str, old: bool, tmp_path: Path) -> None:
    original = made(arch)
    state = original.state_dict()
    torch.save(old_keys(state) if old else state, tmp_path / "m.pth")
    loaded = model_file.load_model_file(tmp_path / "m.pth", CLASSES)
    assert (loaded.card.arch, loaded.card.head) == (arch, ())
    assert unequal(loaded.state, state) == []
    if not old:
        images = torch.randn(1, 3, *smallest(arch))
        with torch.inference_mode():
            torch.testing.assert_close(model_file.build_network(loaded)(images), original(images), rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["imagenet", "file", "file with old keys"])
@pytest.mark.parametrize("arch", SWEEP)
def test_every_family_starts_from_weights(
    arch: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Strictly, all but the head; torchvision's own files have old keys, and MNASNet's need a version."""
    state = made(arch, classes=2).state_dict()
    given = state if way == "file" else old_keys(state)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: dict(given))
    torch.save(given, tmp_path / "w.pth")
    weights = "imagenet" if way == "imagenet" else str(tmp_path / "w.pth")
    network = create_network(arch, 3)
    head = f"{head_name(network)}."
    untrained = {name: tensor.clone() for name, tensor in network.state_dict().items() if name.startswith(head)}
    initialise_backbone(network, load_pretrained(arch, weights))
    body = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
    assert unequal(network.state_dict(), body) == []
    assert unequal(network.state_dict(), untrained) == []
    count = sum(not name.endswith("num_batches_tracked") for name in body)
    assert f"{weights}: loaded {count} of {count} tensors of {arch}, its head aside; left out: {head}" in (
        capsys.readouterr().out
    )


def test_every_architecture_is_told_from_the_others() -> None:
    assert sorted(arch for first in FIRST_WEIGHTS for arch in family(first)) == architectures()
    trunks = {arch: frozenset(skeleton(arch).trunk.items()) for arch in architectures()}
    assert len(set(trunks.values())) == len(trunks)
    for first in FIRST_WEIGHTS:
        for arch in family(first):
            assert next(iter(skeleton(arch).body)) == first
            # A state_dict of the head aside: names and shapes decide, without memory.
    for arch in ("resnet152", "densenet201", "vgg19", "swin_s", "efficientnet_b7"):
        state = empty_network(arch, 3, ()).state_dict()
        match = match_backbone(state)
        assert match is not None
        assert (match.skeleton.arch, match.within_body) == (arch, ())


def test_old_names_become_those_of_torchvision_s_loaders() -> None:
    state = {name: torch.zeros(1) for arch in ("densenet121", "vit_b_16") for name in skeleton(arch).body}
    assert set(rename_old_keys(old_keys(state))) == set(state)
    mlp = torchvision.models.vision_transformer.MLPBlock(1, 1, 0.0)
    old = OrderedDict({"linear_1.weight": torch.full((1, 1), 2.0), "linear_2.weight": torch.full((1, 1), 3.0)})
    mlp.load_state_dict(old, strict=False)  # without a version, it renames
    state = {f"encoder_layer_0.mlp.{name}": tensor for name, tensor in old.items()}
    for name, tensor in rename_old_keys(state).items():
        assert isinstance(tensor, Tensor)
        assert torch.equal(mlp.state_dict()[name.removeprefix("encoder_layer_0.mlp.")], tensor)


# Names of other programs


def numbered(state: State, network: nn.Module, last: int) -> State:
    """As of ``nn.Sequential(*list(network.children())[:last])``."""
    children = [name for name, _ in network.named_children()]
    split = {name: name.partition(".") for name in state}
    return {
        f"{children.index(part)}.{rest}": state[name]
        for name, (part, _, rest) in split.items()
        if children.index(part) < last
    }


PREFIXES: dict[str, Callable[[State], State]] = {
    "module": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "two": lambda state: {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()},
    "encoder": lambda state: {f"model.encoder.{name}": tensor for name, tensor in state.items()},
    "criterion": lambda state: {f"model.{n}": t for n, t in state.items()} | {"criterion.weight": torch.ones(3)},
    "metrics": lambda state: {f"net.{n}": t for n, t in state.items()} | {"val_acc.tp": torch.ones(3)},
    "average": lambda state: (
        {f"model.{n}": t for n, t in state.items()}
        | {f"ema_model.module.{n}": t + 1 for n, t in state.items()}
        | {"ema_model.n_averaged": torch.tensor(3)}
    ),
}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_and_parts_beside_the_network_change_nothing(prefix: str, tmp_path: Path) -> None:
    for arch in ("resnet18", "mobilenet_v3_small"):
        state = made(arch).state_dict()
        torch.save({"state_dict": PREFIXES[prefix](state)}, tmp_path / "m.pth")
        assert unequal(model_file.load_model_file(tmp_path / "m.pth", CLASSES).state, state) == []
        network = create_network(arch, 2)
        initialise_backbone(network, load_pretrained(arch, str(tmp_path / "m.pth")))
        head = f"{head_name(network)}."
        body = {name: tensor for name, tensor in state.items() if not name.startswith(head)}
        assert unequal(network.state_dict(), body) == []


@pytest.mark.parametrize("arch", ["resnet18", "densenet121"])
def test_radimagenet_s_numbered_parts_are_named(arch: str, tmp_path: Path) -> None:
    """``nn.Sequential(*list(network.children())[:-1])`` under the name backbone, without a head."""
    network = made(arch)
    parts = len(list(network.children()))
    state = {f"backbone.{name}": t for name, t in numbered(network.state_dict(), network, parts - 1).items()}
    torch.save(state, tmp_path / "w.pth")
    started = create_network(arch, 2)
    initialise_backbone(started, load_pretrained(arch, str(tmp_path / "w.pth")))
    head = f"{head_name(network)}."
    body = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(head)}
    assert unequal(started.state_dict(), body) == []
    torch.save(
        state | {"fc.weight": network.get_submodule(head[:-1]).weight, "fc.bias": torch.zeros(3)}, tmp_path / "m.pth"
    )
    loaded = model_file.load_model_file(tmp_path / "m.pth", CLASSES)
    assert (loaded.card.arch, unequal(loaded.state, body)) == (arch, [])
    assert torch.equal(loaded.state[f"{head}weight"], network.state_dict()[f"{head}weight"])


def test_a_head_of_one_layer_is_read_wherever_it_is(tmp_path: Path) -> None:
    state = made("resnet18").state_dict()
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    for head in ("fc.1", "classifier", "head.2", "model.fc"):
        moved = {f"backbone.{n}": t for n, t in body.items()} | {
            f"{head}.{n}": state[f"fc.{n}"] for n in ("weight", "bias")
        }
        torch.save(moved, tmp_path / "m.pth")
        assert unequal(model_file.load_model_file(tmp_path / "m.pth", CLASSES).state, state) == []
    mobile = made("mobilenet_v3_small")
    mobile.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(576, 3))
    torch.save(mobile.state_dict(), tmp_path / "m.pth")
    loaded = model_file.load_model_file(tmp_path / "m.pth", CLASSES)
    assert loaded.card.head == ("Flatten(1, -1)", "Linear(576, 3)")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model_file.build_network(loaded)(images), mobile.eval()(images), rtol=0, atol=1e-6)
    model_file.save_model_file(tmp_path / "own.pth", loaded.state, loaded.card)
    assert model_file.load_model_file(tmp_path / "own.pth").card == loaded.card


def test_the_first_difference_from_the_nearest_network_is_said(tmp_path: Path) -> None:
    state = made("resnet18").state_dict()
    body = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    file = tmp_path / "m.pth"

    def said(content: State) -> str:
        torch.save(content, file)
        with pytest.raises(RequestError) as error:
            model_file.load_model_file(file, CLASSES)
        return str(error.value).removeprefix(f"{file} ")

    grey = state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}
    assert (
        "the nearest is resnet18 (99 of 100 weights alike): conv1.weight is (64, 1, 7, 7) there and (64, 3, 7, 7)"
        in (said(grey))
    )
    assert "the nearest is resnet18 (95 of 100 weights alike): net.bn1.weight is missing there and (64,) in" in said(
        {f"net.{name}": t for name, t in state.items() if not name.startswith(("bn1.", "layer1.0.bn1.bias"))}
    )
    attention = state | {"layer1.0.se.fc1.weight": torch.zeros(4, 64, 1, 1)}
    assert said(attention).startswith("has the weights of resnet18, and layer1.0.se.fc1.weight (4, 64, 1, 1) besides")
    assert said(state | {"cbam.conv.weight": torch.zeros(1, 2, 7, 7)}).startswith(
        "has the weights of resnet18, and cbam.conv.weight (1, 2, 7, 7) besides, whose place"
    )
    assert said(state | {"normalize.mean": torch.zeros(1, 3, 1, 1)}).startswith("has the weights of resnet18, and norm")
    assert said({f"a.{n}": t for n, t in state.items()} | {f"b.{n}": t + 1 for n, t in state.items()}).startswith(
        "holds two networks, a.* and b.*, and doesn't say which one predicts"
    )
    assert said(body | {"fc.weight": torch.zeros(3, 100), "fc.bias": torch.zeros(3)}).startswith(
        "doesn't fit torchvision's resnet18: fc.weight is (3, 100) there, of 512 features"
    )
    torch.save(attention, file)
    with pytest.raises(RequestError, match=r"don't fit resnet18: layer1\.0\.se\.fc1\.weight is \(4, 64, 1, 1\) there"):
        load_pretrained("resnet18", str(file))


@pytest.mark.slow
def test_the_nearest_of_all_is_named_for_other_names(tmp_path: Path) -> None:
    state = {f"stage_{i}": tensor for i, tensor in enumerate(made("shufflenet_v2_x0_5").state_dict().values())}
    torch.save(state, tmp_path / "m.pth")
    with pytest.raises(
        RequestError, match=r"nearest is shufflenet_v2_x0_5 \(0 of 280 weights alike\): conv1\.0\.weight"
    ):
        model_file.load_model_file(tmp_path / "m.pth")


# Whole models


def udacity(features: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            [
                ("fc1", nn.Linear(features, 8)),
                ("relu", nn.ReLU()),
                ("fc2", nn.Linear(8, 3, bias=False)),
                ("output", nn.LogSoftmax(dim=1)),
            ]
        )
    )


@pytest.mark.parametrize("arch", SWEEP)
@pytest.mark.parametrize("head", ["own", "several layers"])
def test_whole_models_of_other_families_give_their_outputs(arch: str, head: str, tmp_path: Path) -> None:
    original = made(arch)
    root = head_name(original).partition(".")[0]
    layers: tuple[str, ...] = ()
    if head == "several layers":
        if arch in ("convnext_tiny", "maxvit_t"):
            pytest.skip("the head of this network begins with layers of an image")
        linear = [module for module in original.get_submodule(root).modules() if isinstance(module, nn.Linear)]
        features = linear[0].in_features
        setattr(original, root, udacity(features))
        layers = (f"Linear({features}, 8)", "ReLU()", "Linear(8, 3, False)")
    torch.save(original, tmp_path / "m.pth")
    loaded = model_file.load_model_file(tmp_path / "m.pth", CLASSES)
    assert (loaded.card.arch, loaded.card.head) == (arch, layers)
    images = torch.randn(2, 3, *smallest(arch))
    with torch.inference_mode():
        ours, theirs = model_file.build_network(loaded)(images), original.eval()(images)
    torch.testing.assert_close(ours.softmax(1), theirs.softmax(1), rtol=0, atol=1e-6)


def test_a_whole_model_that_differs_is_refused(tmp_path: Path) -> None:
    network = made("mobilenet_v2")
    vars(network.get_submodule("features.0.0"))["stride"] = (1, 1)
    torch.save(network, tmp_path / "m.pth")
    with pytest.raises(
        RequestError, match=r"is not torchvision's mobilenet_v2: features\.0\.0\.stride is \(1, 1\), not"
    ):
        model_file.load_model_file(tmp_path / "m.pth", CLASSES)
