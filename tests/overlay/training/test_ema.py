import io

import pytest
import torch
from torch import nn

from overlay.config import Model
from overlay.models.network import create_network
from overlay.training import freezing
from overlay.training.ema import Ema


def weight(network: nn.Module, value: float | None = None) -> float:
    parameter = next(network.parameters())
    if value is not None:
        nn.init.constant_(parameter, value)
    return parameter.item()


def test_the_average_by_hand() -> None:
    network = nn.Linear(1, 1, bias=False)
    weight(network, 1.0)
    ema = Ema(network, decay=0.15)
    expected = [1.0]
    for value, kept in ((2.0, 1 / 10), (4.0, 0.15), (8.0, 0.15)):  # the second would be 2 / 11, above the decay
        weight(network, value)
        ema.update(network)
        expected.append(kept * expected[-1] + (1 - kept) * value)
        assert weight(ema.network) == pytest.approx(expected[-1], rel=1e-6)
    assert weight(network) == 8.0
    assert expected[1:3] == pytest.approx([1.9, 0.15 * 1.9 + 0.85 * 4])


def test_a_slow_average_starts_fast() -> None:
    network = nn.Linear(1, 1, bias=False)
    weight(network, 0.0)
    ema = Ema(network, decay=0.999)
    weight(network, 1.0)
    left = 1.0
    for update in range(20):
        ema.update(network)
        left *= (1 + update) / (10 + update)
        assert 1 - weight(ema.network) == pytest.approx(left, abs=1e-6)


def test_buffers_are_copied_and_frozen_weights_stay_to_the_bit() -> None:
    network = create_network("resnet18", 3)
    freezing.apply_freezing(network, Model(freeze="layer3"), 0)
    ema = Ema(network, decay=0.9)
    frozen = network.get_parameter("layer1.0.conv1.weight").clone()
    freezing.set_train_mode(network)
    with torch.no_grad():
        network(torch.randn(2, 3, 32, 32))
        network.get_parameter("fc.weight").add_(1)
    for _ in range(3):
        ema.update(network)
    averaged = dict(ema.network.named_buffers())
    assert all(torch.equal(averaged[name], buffer) for name, buffer in network.named_buffers())
    assert torch.equal(ema.network.get_parameter("layer1.0.conv1.weight"), frozen)
    assert not any(module.training for module in ema.network.modules())
    assert not any(parameter.requires_grad for parameter in ema.network.parameters())
    assert network.get_parameter("fc.weight").requires_grad


def test_a_resumed_average_goes_on_alike() -> None:
    network = nn.Linear(3, 2)
    first = Ema(network, decay=0.9)
    for _ in range(3):
        nn.init.normal_(network.weight)
        first.update(network)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Ema(nn.Linear(3, 2), decay=0.9)
    second.load_state_dict(torch.load(file, weights_only=True))
    nn.init.normal_(network.weight)
    for ema in (first, second):
        ema.update(network)
    assert torch.equal(first.network.get_parameter("weight"), second.network.get_parameter("weight"))
    assert first.state_dict()["updates"] == second.state_dict()["updates"] == 4
