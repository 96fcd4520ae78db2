import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from overlay.config import Loop, Loss, Train
from overlay.errors import RequestError
from overlay.training.losses import class_weights, sample_losses, soft_targets

LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.5, 2.0, 0.0], [0.0, 0.0, 3.0], [1.0, 1.0, 1.0]])
LABELS = torch.tensor([0, 1, 1, 2])
WEIGHTS = torch.tensor([0.5, 2.0, 1.0])


def test_balanced_weights_are_scikit_learn_s() -> None:
    labels = np.repeat([0, 1, 2], [437, 210, 133])
    weights = class_weights(Loss(class_weights="balanced"), ("benign", "malignant", "normal"), [437, 210, 133])
    assert weights is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weights.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert class_weights(Loss(), ("a", "b"), [1, 2]) is None


def test_a_class_without_images_has_no_balanced_weight() -> None:
    with pytest.raises(RequestError) as error:
        class_weights(Loss(class_weights="balanced"), ("benign", "normal"), [3, 0])
    assert str(error.value) == (
        "loss.class_weights is balanced, and there is no training image of the class normal; use none"
    )


@pytest.mark.parametrize("smoothing", [0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_the_mean_is_torch_s(weights: torch.Tensor | None, smoothing: float) -> None:
    losses, shares = sample_losses(LOGITS, soft_targets(LABELS, 3), weights, smoothing)
    expected = cross_entropy(LOGITS, LABELS, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(losses.sum() / shares.sum(), expected)
    assert shares.tolist() == ([1, 1, 1, 1] if weights is None else [0.5, 2, 2, 1])


def test_a_blended_target_by_hand() -> None:
    targets = torch.tensor([[0.75, 0.25, 0.0]])
    losses, shares = sample_losses(LOGITS[:1].bfloat16(), targets, WEIGHTS)
    log = torch.log_softmax(LOGITS[0], 0)
    torch.testing.assert_close(losses, -(0.75 * 0.5 * log[:1] + 0.25 * 2 * log[1:2]))
    assert shares.tolist() == [0.75 * 0.5 + 0.25 * 2]
    assert losses.dtype == torch.float32


@given(st.integers(0, 4))
def test_a_divided_batch_has_the_loss_of_the_whole(cut: int) -> None:
    targets = soft_targets(LABELS, 3)
    parts = [sample_losses(LOGITS[part], targets[part], WEIGHTS, 0.1) for part in (slice(cut), slice(cut, None))]
    losses, shares = sample_losses(LOGITS, targets, WEIGHTS, 0.1)
    assert torch.equal(torch.cat([part[0] for part in parts]), losses)
    assert torch.equal(torch.cat([part[1] for part in parts]), shares)


def test_classes_are_not_balanced_twice() -> None:
    with pytest.raises(RequestError) as error:
        Train("d", "o", loss=Loss(class_weights="balanced"), train=Loop(balanced=True))
    assert str(error.value) == (
        "loss.class_weights is balanced and train.balanced is true, which would make up for rare classes twice; give "
        "one of them"
    )
    with pytest.raises(RequestError, match=r"loss\.label_smoothing is 1; it must be at least 0 and below 1"):
        Loss(label_smoothing=1)
