import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from overlay.config import Model, Optimizer, Train
from overlay.errors import RequestError
from overlay.models.network import create_network
from overlay.training.optimizer import build_optimizer, parameter_groups


def rates(network: nn.Module, config: Optimizer) -> dict[str, tuple[float, float]]:
    """Return the learning rate and the weight decay of each parameter."""
    names = {parameter: name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, config)
    found = {names[each]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}
    assert found.keys() == set(names.values())
    assert sum(len(group["params"]) for group in groups) == len(names)
    return found


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return create_network("resnet18", 3)


def test_biases_and_normalisation_do_not_decay_unless_asked_to(resnet18: nn.Module) -> None:
    found = rates(resnet18, Optimizer(lr=0.5, weight_decay=0.25))
    assert found["layer1.0.conv1.weight"] == found["fc.weight"] == (0.5, 0.25)
    assert found["layer1.0.bn1.weight"] == found["layer1.0.bn1.bias"] == found["fc.bias"] == (0.5, 0)
    assert {decay for _, decay in rates(resnet18, Optimizer(decay_norm_and_bias=True)).values()} == {0.01}


def test_the_head_and_the_backbone_have_rates_of_their_own(resnet18: nn.Module) -> None:
    found = {name: rate for name, (rate, _) in rates(resnet18, Optimizer(lr=0.5, backbone_lr=0.125)).items()}
    assert {name for name, rate in found.items() if rate == 0.5} == {"fc.weight", "fc.bias"}
    assert set(found.values()) == {0.5, 0.125}


def test_each_stage_learns_at_a_share_of_the_one_above(resnet18: nn.Module) -> None:
    found = rates(resnet18, Optimizer(lr=0.5, layer_decay=0.5, weight_decay=0))
    expected = {
        "fc.bias": 0.5,
        "layer4.1.bn2.weight": 0.25,
        "layer3.0.conv1.weight": 0.125,
        "layer2.0.downsample.0.weight": 0.0625,
        "layer1.0.conv1.weight": 0.03125,
        "bn1.bias": 0.015625,
        "conv1.weight": 0.015625,
    }
    assert {name: found[name][0] for name in expected} == expected


def test_another_network_has_a_backbone_and_a_head() -> None:
    with torch.device("meta"):
        network = create_network("efficientnet_b0", 3)
    found = {name: rate for name, (rate, _) in rates(network, Optimizer(lr=0.5, backbone_lr=0.125)).items()}
    assert {name for name, rate in found.items() if rate == 0.5} == {"classifier.1.weight", "classifier.1.bias"}


def test_the_optimizer_is_the_one_asked_for(resnet18: nn.Module) -> None:
    sgd = build_optimizer(resnet18, Optimizer(name="sgd"))
    assert isinstance(sgd, SGD)
    assert {(group["momentum"], group["nesterov"]) for group in sgd.param_groups} == {(0.9, True)}
    assert isinstance(build_optimizer(resnet18, Optimizer()), AdamW)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone_lr": 0.1, "layer_decay": 0.5},
            "optimizer.backbone_lr is 0.1 and optimizer.layer_decay is 0.5; give one of them",
        ),
        ({"backbone_lr": 0.0}, "optimizer.backbone_lr is 0.0; it must be above 0"),
        ({"clip_norm": -1.0}, "optimizer.clip_norm is -1.0; it must be above 0"),
        ({"layer_decay": 1.5}, "optimizer.layer_decay is 1.5; it must be above 0 and at most 1"),
        ({"step_size": 0}, "optimizer.step_size is 0; it must be at least 1"),
        ({"patience": -1}, "optimizer.patience is -1; it must be at least 0"),
        ({"gamma": 1.0}, "optimizer.gamma is 1.0; it must be above 0 and below 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError) as error:
        Optimizer(**options)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_layer_decay_needs_the_stages_of_a_resnet() -> None:
    Train("d", "o", model=Model("resnext50_32x4d"), optimizer=Optimizer(layer_decay=0.5))
    with pytest.raises(RequestError, match=r"layer_decay is 0\.5 and model\.arch is vgg11, which is no ResNet; give"):
        Train("d", "o", model=Model("vgg11"), optimizer=Optimizer(layer_decay=0.5))
