"""Grad-CAM: where in an image a network found evidence for a class (Selvaraju et al. 2017, ICCV, equation 1 and 2).

A map has few pixels (7 x 7 of a ResNet at 224), is one of several kinds of saliency map, and is no proof of a cause:
the views of `overlay.evaluation.audit_views` test that.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from overlay.config import OverlayStyle
from overlay.images.masks import draw_mask

_OUTLINE = OverlayStyle(style="contour", color="#ffffff", width=1)
# Opacity of the strongest evidence; the image stays visible beneath it.
_OPACITY = 0.7


def grad_cam(network: nn.Module, images: Tensor, classes: Tensor) -> Tensor | None:
    """Return Grad-CAM maps of the last feature map, (n, h, w), at least 0; None for a network without such a map.

    A vision transformer has none: the only output with two dimensions of space is that of its first layer, and a map in
    the first quarter of the layers is left out.

    Args:
        network: gives logits (n, C); in eval mode.
        images: normalised, (n, 3, size, size).
        classes: (n,) indices of the classes that the evidence is for.
    """
    maps: list[tuple[int, Tensor]] = []
    calls = 0

    def record(module: nn.Module, _: object, output: object) -> None:
        nonlocal calls
        calls += not any(True for _ in module.children())
        # Of one pixel is what a pooling makes.
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            maps.append((calls, output))

    hooks = [module.register_forward_hook(record) for module in network.modules()]
    try:
        with torch.enable_grad():
            logits = network(images.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if not maps or maps[-1][0] <= calls / 4:
        return None
    features = maps[-1][1]
    # The images of a batch do not depend on each other, so one gradient of the sum has all of theirs.
    score = logits.gather(1, classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return (weights * features).sum(dim=1).relu().detach()


def enlarge_map(evidence: Tensor, size: int) -> NDArray[np.float64]:
    """Return a map (h, w) enlarged bilinearly to (size, size), divided by its maximum; zeros where that is 0."""
    wide = interpolate(evidence[None, None].double(), (size, size), mode="bilinear", align_corners=False)[0, 0].numpy()
    highest = float(wide.max())
    return wide / highest if highest > 0 else wide


def share_inside(evidence: NDArray[np.float64], mask: NDArray[np.float64]) -> float | None:
    """Return the share of a map's sum that lies inside a mask, both (size, size), the mask from 0 to 1.

    None for a map of zeros, and for an empty mask.
    """
    total = float(evidence.sum())
    return float((evidence * mask).sum()) / total if total > 0 and mask.any() else None


def draw_heat(
    image: NDArray[np.uint8], evidence: NDArray[np.float64], mask: NDArray[np.float64] | None
) -> NDArray[np.uint8]:
    """Draw a map on the image in grey, (size, size, 3), with the outline of the mask in white."""
    import matplotlib

    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    colour = 255 * matplotlib.colormaps["inferno"](0.25 + 0.75 * evidence)[..., :3]
    opacity = _OPACITY * evidence[..., None]
    picture = np.rint(grey * (1 - opacity) + colour * opacity).astype(np.uint8)
    return picture if mask is None else draw_mask(picture, mask >= 0.5, _OUTLINE)
