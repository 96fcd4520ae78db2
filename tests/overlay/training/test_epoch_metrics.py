from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy

from overlay.training.epoch_metrics import EpochMetrics

CLASSES = 3
CPU = torch.device("cpu")


def batches(samples: int = 101) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Make batches of 10 and a rest of 1, each with logits, labels and losses."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(samples, CLASSES, generator=random)
    labels = torch.randint(CLASSES, (samples,), generator=random)
    losses = cross_entropy(logits, labels, reduction="none")
    return list(zip(*(torch.split(column, 10) for column in (logits, labels, losses)), strict=True))


def accumulated(parts: list[tuple[Tensor, Tensor, Tensor]]) -> EpochMetrics:
    metrics = EpochMetrics(CLASSES, CPU)
    for part in parts:
        metrics.add(*part)
    return metrics


def test_sums_are_those_of_all_samples_at_once() -> None:
    from sklearn.metrics import confusion_matrix  # not at the top, since the two workers import this file as well

    logits, labels, losses = (torch.cat(column) for column in zip(*batches(), strict=True))
    loss, confusion = accumulated(batches()).compute_and_reset()
    assert loss == pytest.approx(losses.double().mean().item(), rel=1e-15)
    np.testing.assert_array_equal(confusion, confusion_matrix(labels, logits.argmax(dim=1)))
    assert confusion.sum() == 101


def test_rows_are_true_and_columns_predicted() -> None:
    logits = torch.tensor([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    loss, confusion = accumulated([(logits, torch.tensor([1, 0]), torch.tensor([0.5, 0.25]))]).compute_and_reset()
    assert confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert loss == 0.375


def test_starts_anew_after_each_epoch() -> None:
    metrics = accumulated(batches())
    first = metrics.compute_and_reset()
    first[1][:] *= 1  # the caller's own copy, not the accumulator's counts
    for part in batches():
        metrics.add(*part)
    again = metrics.compute_and_reset()
    assert again[0] == first[0]
    np.testing.assert_array_equal(again[1], first[1])


def test_losses_keep_no_graph() -> None:
    logits = torch.zeros(2, CLASSES, requires_grad=True)
    labels = torch.tensor([0, 1])
    metrics = accumulated([(logits, labels, cross_entropy(logits, labels, reduction="none"))])
    assert not metrics._loss.requires_grad


def test_two_workers_have_the_sums_of_one(tmp_path: Path) -> None:
    spawn(worker, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    loss, confusion = accumulated(batches()).compute_and_reset()
    for rank in range(2):
        result = torch.load(tmp_path / f"{rank}.pt")
        assert result["loss"] == pytest.approx(loss, rel=1e-14)
        assert result["confusion"] == confusion.tolist()


def worker(rank: int, folder: str) -> None:
    """Add every other batch: six of one worker, five of the other."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    loss, confusion = accumulated(batches()[rank::2]).compute_and_reset()
    torch.save({"loss": loss, "confusion": confusion.tolist()}, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def test_the_running_loss_is_that_of_an_earlier_call() -> None:
    metrics = EpochMetrics(CLASSES, CPU)
    logits, labels = torch.zeros(2, CLASSES), torch.tensor([0, 1])
    metrics.add(logits, labels, torch.tensor([0.5, 1.0]))
    assert metrics.running_loss() is None
    metrics.add(logits, labels, torch.tensor([2.0, 2.5]))
    assert metrics.running_loss() == 0.75
    assert metrics.running_loss() == 1.5


def test_an_epoch_is_resumed_from_its_totals() -> None:
    first, second = accumulated(batches()[:4]), EpochMetrics(CLASSES, CPU)
    second.load_totals(first.all_reduce())
    for metrics in (first, second):
        for part in batches()[4:]:
            metrics.add(*part)
    (loss, confusion), (resumed_loss, resumed_confusion) = (each.compute_and_reset() for each in (first, second))
    assert resumed_loss == loss
    np.testing.assert_array_equal(resumed_confusion, confusion)
