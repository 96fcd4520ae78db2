import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from overlay.config import Augment
from overlay.errors import RequestError
from overlay.training.losses import soft_targets
from overlay.training.mixup import _box, mix_batch

CONFIGS = st.sampled_from([Augment(mixup=0.2), Augment(cutmix=1.0), Augment(mixup=0.4, cutmix=1.0)])


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image i is all i; label i is i modulo 3."""
    images = torch.arange(float(n)).reshape(n, 1, 1, 1).expand(n, 3, 8, 12).clone()
    return images, soft_targets(torch.arange(n) % 3, 3)


def test_nothing_is_mixed_unless_asked_for() -> None:
    images, targets = batch(4)
    mixed = mix_batch(images, targets, Augment(), seed=0, step=0)
    assert mixed[0] is images
    assert mixed[1] is targets


@given(CONFIGS, st.integers(1, 9), st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_targets_follow_the_pixels(config: Augment, n: int, seed: int, step: int) -> None:
    images, targets = batch(n)
    before = images.clone()
    mixed, blended = mix_batch(images, targets, config, seed=seed, step=step)
    assert torch.equal(images, before)
    torch.testing.assert_close(blended.sum(1), torch.ones(n))
    assert blended.min() >= 0
    torch.testing.assert_close(blended.sum(0), targets.sum(0))
    if n > 3:  # then image 1, all ones, is blended with image 0, all zeros, and of another class
        torch.testing.assert_close(blended[1, 1], mixed[1].mean(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(blended[1, 0], 1 - mixed[1].mean(), atol=1e-5, rtol=1e-5)


@given(st.integers(0, 100))
def test_mixup_adds_up_and_cutmix_pastes(step: int) -> None:
    images, targets = batch(4)
    added, _ = mix_batch(images, targets, Augment(mixup=1.0), seed=0, step=step)
    pasted, _ = mix_batch(images, targets, Augment(cutmix=1.0), seed=0, step=step)
    assert [len(set(image.flatten().tolist())) for image in added] == [1, 1, 1, 1]
    assert set(pasted[1].flatten().tolist()) <= {0.0, 1.0}
    assert set(pasted[0].flatten().tolist()) <= {0.0, 3.0}


def test_seed_and_step_alone_decide() -> None:
    config = Augment(mixup=1.0, cutmix=1.0)

    def kept(n: int, seed: int, step: int) -> float:
        return float(mix_batch(*batch(n), config, seed=seed, step=step)[1][1, 1])

    whole = [kept(8, 3, step) for step in range(40)]
    assert whole == [kept(8, 3, step) for step in range(40)]
    assert whole == [kept(4, 3, step) for step in range(40)]  # two workers with halves of the batch
    assert whole != [kept(8, 4, step) for step in range(40)]
    assert len(set(whole)) > 35


def test_either_of_the_two_comes_about_half_the_time() -> None:
    images, targets = batch(4)
    images[1] = torch.rand(3, 8, 12)
    config = Augment(mixup=1.0, cutmix=1.0)
    mixed = [mix_batch(images, targets, config, seed=0, step=step)[0][1] for step in range(200)]
    cut = sum(bool(((image == images[1]) | (image == 0)).all()) for image in mixed)
    assert 80 <= cut <= 120


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
def test_a_box_lies_in_the_image_and_is_no_larger_than_asked(seed: int, height: int, width: int, area: float) -> None:
    top, bottom, left, right = _box(np.random.default_rng(seed), height, width, area)
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width
    assert bottom - top <= height * area**0.5 + 1
    assert right - left <= width * area**0.5 + 1


def test_a_negative_alpha_is_refused() -> None:
    with pytest.raises(RequestError, match=r"augment\.mixup is -1; it must be at least 0"):
        Augment(mixup=-1)
