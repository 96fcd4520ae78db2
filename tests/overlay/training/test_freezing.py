from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from overlay.config import Model, Optimizer
from overlay.errors import RequestError
from overlay.models.network import create_network
from overlay.training import freezing
from overlay.training.optimizer import build_optimizer


def stages_of(names: frozenset[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    freezing.set_train_mode(network)
    for _ in range(steps):
        cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}


def copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return create_network("resnet18", 3)


@pytest.mark.parametrize(
    ("freeze", "trained"),
    [
        ("none", {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"}),
        ("stem", {"layer1", "layer2", "layer3", "layer4", "fc"}),
        ("layer1", {"layer2", "layer3", "layer4", "fc"}),
        ("layer3", {"layer4", "fc"}),
        ("backbone", {"fc"}),
    ],
)
def test_what_is_frozen_is_all_below_a_stage(resnet18: nn.Module, freeze: str, trained: set[str]) -> None:
    config = Model(freeze=freeze)  # type: ignore[arg-type]
    assert stages_of(freezing.trainable_parameters(resnet18, config, epoch=0)) == trained
    assert stages_of(freezing.trainable_parameters(resnet18, config, epoch=99)) == trained


def test_stages_are_unfrozen_one_by_one_from_the_head_down(resnet18: nn.Module) -> None:
    config = Model(freeze="layer3", unfreeze_every=2)
    added: Sequence[set[str]] = [
        set(),
        set(),
        {"layer3"},
        set(),
        {"layer2"},
        set(),
        {"layer1"},
        set(),
        {"conv1", "bn1"},
    ]
    expected = {"layer4", "fc"}
    for epoch, more in enumerate([*added, set(), set()]):
        expected |= more
        assert stages_of(freezing.trainable_parameters(resnet18, config, epoch)) == expected


def test_another_network_is_unfrozen_as_a_whole() -> None:
    with torch.device("meta"):
        network = create_network("convnext_tiny", 3)
    config = Model("convnext_tiny", freeze="backbone", unfreeze_every=3)
    assert freezing.trainable_parameters(network, config, 2) == {"classifier.2.weight", "classifier.2.bias"}
    assert len(freezing.trainable_parameters(network, config, 3)) == len(list(network.parameters()))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_frozen_backbone_is_unchanged_to_the_bit(resnet18: nn.Module, name: str) -> None:
    optimizer = build_optimizer(resnet18, Optimizer(name=name, lr=0.1, weight_decay=0.5))  # type: ignore[arg-type]
    freezing.apply_freezing(resnet18, Model(freeze="backbone"), 0)
    before = copy(resnet18)
    train(resnet18, optimizer)
    assert changed(resnet18, before) == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_is_unfrozen_is_trained_by_the_same_optimizer(resnet18: nn.Module, name: str) -> None:
    config = Model(freeze="backbone", unfreeze_every=1)
    optimizer = build_optimizer(resnet18, Optimizer(name=name, lr=0.01))  # type: ignore[arg-type]
    assert freezing.apply_freezing(resnet18, config, 0)
    train(resnet18, optimizer)
    assert freezing.apply_freezing(resnet18, config, 1)
    assert not freezing.apply_freezing(resnet18, config, 1)
    before = copy(resnet18)
    train(resnet18, optimizer)
    names = changed(resnet18, before)
    assert {name.partition(".")[0] for name in names} == {"layer4", "fc"}
    assert {"layer4.1.conv2.weight", "layer4.1.bn2.running_mean", "layer4.1.bn2.weight"} <= names


def test_frozen_normalisation_keeps_its_statistics_and_its_weights(resnet18: nn.Module) -> None:
    optimizer = build_optimizer(resnet18, Optimizer(lr=0.1))
    freezing.apply_freezing(resnet18, Model(freeze_norm=True), 0)
    before = copy(resnet18)
    train(resnet18, optimizer)
    norms = {name for name in before if "bn" in name or "downsample.1" in name}
    assert changed(resnet18, before) == set(before) - norms


def test_all_but_frozen_normalisation_is_in_training_mode(resnet18: nn.Module) -> None:
    freezing.apply_freezing(resnet18, Model(freeze="layer1"), 0)
    freezing.set_train_mode(resnet18.eval())
    still = {name for name, module in resnet18.named_modules() if not module.training}
    assert still == {"bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.1.bn1", "layer1.1.bn2"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: Model("convnext_tiny", freeze="layer1"),
            "model.freeze is layer1, a stage of a ResNet, and model.arch is convnext_tiny; give none or backbone",
        ),
        (
            lambda: Model(weights="none", freeze="stem"),
            "model.freeze is stem and model.weights is none, so random weights would never be trained; give weights, "
            "or freeze none",
        ),
        (
            lambda: Model(unfreeze_every=2),
            "model.unfreeze_every is 2 and model.freeze is none; say what is frozen at first",
        ),
        (
            lambda: Model(freeze="backbone", unfreeze_every=0),
            "model.unfreeze_every is 0; it must be at least 1",
        ),
        (lambda: Model(dropout=1), "model.dropout is 1; it must be at least 0 and below 1"),
    ],
)
def test_wrong_options_are_refused(model: object, message: str) -> None:
    assert callable(model)
    with pytest.raises(RequestError) as error:
        model()
    assert str(error.value) == message
