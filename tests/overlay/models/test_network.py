import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional

from overlay.errors import RequestError
from overlay.models.network import (
    FITS_ALL,
    architectures,
    check_input_size,
    create_network,
    head_name,
    normalise,
    parameter_stages,
)
from overlay.models.pretrained import Weights, initialise_backbone, load_pretrained


def meta(arch: str) -> nn.Module:
    with torch.device("meta"):
        return create_network(arch, classes=3)


def test_every_resnet_is_there_with_a_head_called_fc() -> None:
    names = [name for name in architectures() if "resne" in name]
    assert names == [
        "resnet101",
        "resnet152",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "resnext50_32x4d",
        "wide_resnet101_2",
        "wide_resnet50_2",
    ]
    for name in names:
        network = meta(name)
        assert isinstance(network, torchvision.models.ResNet)
        assert head_name(network) == "fc"
        assert list(parameter_stages(network)) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]


def test_the_head_of_every_network_is_found_and_has_our_classes() -> None:
    heads = set()
    for name in architectures():
        network = meta(name)
        head = network.get_submodule(head_name(network))
        assert isinstance(head, nn.Linear)
        assert head.out_features == 3, name
        parts = parameter_stages(network)
        assert list(parts)[-1] == "head"
        assert sum(map(len, parts.values())) == len(list(network.parameters()))
        heads.add(head_name(network))
    assert {"fc", "head", "classifier", "heads.head", "classifier.1", "classifier.2", "classifier.6"} <= heads


def test_an_unknown_architecture_is_refused_and_near_ones_are_named() -> None:
    for call in (
        lambda: create_network("vgg17", 3),
        lambda: load_pretrained("vgg17", "none"),
        lambda: check_input_size("vgg17", 64),
    ):
        with pytest.raises(RequestError) as error:
            call()
        assert str(error.value).startswith(
            "model.arch is 'vgg17'; choose a classification network of torchvision, such as vgg1"
        )
    with pytest.raises(RequestError, match=r"such as resnet18, resnet50, resnet101$"):
        create_network("?", 3)


def test_the_size_of_the_images_must_fit_the_network() -> None:
    for arch, size in (("resnet18", 32), ("vit_b_16", 224), ("convnext_tiny", 64)):
        check_input_size(arch, size)
    for arch, size, reason in (
        ("vit_b_16", 256, "Wrong image height! Expected 224 but got 256!"),
        ("alexnet", 32, "Given input size"),
    ):
        with pytest.raises(RequestError) as error:
            check_input_size(arch, size)
        assert str(error.value).startswith(f"input.size is {size}, which {arch} can't take ({reason}")
        assert str(error.value).endswith("; 224 fits every network")
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_what_is_not_tried_fits() -> None:
    """`check_input_size` tries no pass of a ResNet, and none of 224 pixels."""
    for arch in architectures():
        network = meta(arch)
        sizes = [FITS_ALL]
        if isinstance(network, torchvision.models.ResNet):
            sizes += [1, 2, 3, 7, 31, 32, 33, 65, 500]
        for size in sizes:
            assert network(torch.empty(2, 3, size, size, device="meta")).shape == (2, 3), (arch, size)


def test_dropout_works_before_the_head_in_training_alone_and_changes_no_name() -> None:
    torch.manual_seed(0)
    network, plain = create_network("resnet18", 3, dropout=0.5), create_network("resnet18", 3)
    assert list(network.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(network.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), plain.eval()(images))
    features = torch.nn.Sequential(*list(plain.children())[:-1])
    network.eval()
    network.get_submodule("fc").train()
    torch.manual_seed(1)
    logits = network(images)
    torch.manual_seed(1)
    dropped = functional.dropout(features(images).flatten(1), 0.5, training=True)
    assert torch.equal(logits, functional.linear(dropped, *plain.get_submodule("fc").parameters()))


@pytest.mark.parametrize("arch", ["efficientnet_b0", "mobilenet_v3_small"])
def test_weights_fill_all_but_the_head_whatever_its_name(arch: str) -> None:
    network, source = create_network(arch, 3), create_network(arch, 1000)
    head = f"{head_name(network)}."
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    initialise_backbone(network, Weights(source.state_dict()))  # type: ignore[arg-type]
    for name, tensor in network.state_dict().items():
        expected = before[name] if name.startswith(head) else source.state_dict()[name]
        assert torch.equal(tensor, expected), name


def test_normalises_to_channels_last() -> None:
    images = torch.tensor([0, 51, 102, 255, 204, 153], dtype=torch.uint8).reshape(1, 1, 2, 3).repeat(2, 3, 1, 1)
    normal = normalise(images, torch.tensor((0.5, 0.25, 0.125)), torch.tensor((0.25, 0.5, 0.75)))
    assert (normal.shape, normal.dtype) == ((2, 3, 3, 2), torch.float32)
    assert normal.is_contiguous(memory_format=torch.channels_last)
    expected = torch.tensor([[(0 - 0.5) / 0.25, 2.0], [(0.2 - 0.25) / 0.5, 1.1], [(0.4 - 0.125) / 0.75, 0.475 / 0.75]])
    torch.testing.assert_close(normal[1, :, 2], expected)
