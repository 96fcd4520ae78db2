import numpy as np
import pytest
import torch
from torch import Tensor, nn

from overlay.evaluation.grad_cam import draw_heat, enlarge_map, grad_cam, share_inside
from overlay.models.network import create_network


class Known(nn.Module):
    """Two feature maps, channels 0 and 1 of the image, whose means are weighted for each of two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 1, bias=False)
        self.maps.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0]])[:, :, None, None]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[4.0, 0.0], [8.0, -4.0]])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.maps(images)).flatten(1))
        return logits


def test_a_map_is_the_weighted_sum_of_the_feature_maps() -> None:
    images = torch.zeros(2, 3, 2, 2)
    images[:, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    images[:, 1] = torch.tensor([[0.0, 8.0], [4.0, 0.0]])
    evidence = grad_cam(Known().eval(), images, torch.tensor([0, 1]))
    assert evidence is not None
    # Each pixel's gradient is the head's weight over 4 pixels: 1 and 0 for class 0, 2 and -1 for class 1.
    assert evidence.tolist() == [[[1, 2], [3, 4]], [[2, 0], [2, 8]]]


@pytest.mark.parametrize(("arch", "side"), [("resnet18", 2), ("densenet121", 2), ("swin_t", 2), ("vit_b_32", None)])
def test_networks_of_torchvision(arch: str, side: int | None) -> None:
    torch.manual_seed(0)
    size = 64 if arch != "vit_b_32" else 224
    network = create_network(arch, 3).eval()
    evidence = grad_cam(network, torch.randn(1, 3, size, size), torch.tensor([1]))
    assert evidence is None if side is None else evidence is not None and evidence.shape == (1, side, side)


def test_the_enlarged_map_keeps_its_places() -> None:
    wide = enlarge_map(torch.tensor([[0.0, 0.0], [0.0, 5.0]]), 8)
    assert wide.shape == (8, 8)
    assert (wide[-1, -1], wide[0, 0]) == (1, 0)
    assert (enlarge_map(torch.zeros(2, 2), 4) == 0).all()


def test_the_share_inside_a_mask() -> None:
    evidence = np.array([[1.0, 1.0], [0.0, 2.0]])
    assert share_inside(evidence, np.array([[0.0, 1.0], [1.0, 0.5]])) == 0.5
    assert share_inside(evidence, np.zeros((2, 2))) is None
    assert share_inside(np.zeros((2, 2)), np.ones((2, 2))) is None


def test_heat_is_drawn_where_the_evidence_is() -> None:
    image = np.full((6, 6, 3), (30, 60, 90), np.uint8)
    evidence = np.zeros((6, 6))
    evidence[0, 0] = 1
    picture = draw_heat(image, evidence, None)
    assert (picture[1:, 1:] == 60).all()
    # inferno ends in (252, 255, 164): 0.7 of it and 0.3 of the grey.
    assert picture[0, 0].tolist() == pytest.approx([195, 196, 133], abs=1)
    mask = np.zeros((6, 6))
    mask[2:5, 2:5] = 1
    outlined = draw_heat(image, evidence, mask)
    assert (outlined[2, 2:5] == 255).all()
    assert (outlined[3, 3] == 60).all()
