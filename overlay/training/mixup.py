"""Mixup and cutmix augmentation: training on blends of two images, with targets blended alike.

Images are blended on the device, in a worker's share of the batch. Random numbers depend on (seed, step) alone and are
drawn on the CPU: the same for any number of workers, and without waiting for the device. Only the choice of partners
depends on the shares, since each image is blended with the one before it in its share.
"""

import math

import numpy as np
import torch
from torch import Tensor

from overlay.config import Augment


def mix_batch(images: Tensor, targets: Tensor, config: Augment, *, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """Blend each image with its neighbour in the batch, by mixup or cutmix; with both, each batch gets one at random.

    mixup (Zhang et al. 2018, arXiv:1710.09412) adds two images up, cutmix (Yun et al. 2019, arXiv:1905.04899) pastes a
    box of the other one; how much stays of the first is drawn from Beta(alpha, alpha), once a batch. ``images`` float
    (n, 3, height, width), ``targets`` float (n, k) of sum 1. Each sample's target appears in its own blend and in one
    other, with shares that add up to 1: so the sum of the targets over the batch stays as it was.
    """
    if config.mixup == 0 and config.cutmix == 0:
        return images, targets
    # The spawn key sets these numbers apart from those of the plan and of the augmentation.
    random = np.random.default_rng(np.random.SeedSequence((seed, step), spawn_key=(1,)))
    choice = random.random()
    if config.cutmix == 0 or (config.mixup > 0 and choice < 0.5):
        kept = float(random.beta(config.mixup, config.mixup))
        mixed = torch.lerp(images.roll(1, dims=0), images, kept)
    else:
        kept = float(random.beta(config.cutmix, config.cutmix))
        top, bottom, left, right = _box(random, images.shape[2], images.shape[3], 1 - kept)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images.roll(1, dims=0)[:, :, top:bottom, left:right]
        kept = 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return mixed, torch.lerp(targets.roll(1, dims=0), targets, kept)


def _box(random: np.random.Generator, height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right of a box of the image's shape and a share of its area, cut at the borders."""
    y, x = int(random.integers(height)), int(random.integers(width))
    half_height, half_width = round(height * math.sqrt(area) / 2), round(width * math.sqrt(area) / 2)
    return max(y - half_height, 0), min(y + half_height, height), max(x - half_width, 0), min(x + half_width, width)
