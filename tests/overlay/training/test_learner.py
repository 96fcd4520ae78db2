from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from overlay.config import Augment, Loop, Loss, Model, Optimizer, Train
from overlay.models.device import use_all_cores
from overlay.models.network import create_network
from overlay.models.pretrained import Weights
from overlay.training.learner import Learner, LearningTask
from overlay.training.sampler import SINGLE_WORKER, SamplePlan, Worker

CPU = torch.device("cpu")
PLAN = SamplePlan(samples=35, batch_size=12, epochs=2, seed=0)
RANDOM = np.random.default_rng(0)
IMAGES = torch.from_numpy(RANDOM.integers(0, 256, (PLAN.samples, 32, 32, 3), np.uint8))
LABELS = torch.from_numpy(RANDOM.integers(0, 3, PLAN.samples))
CONFIG = Train(
    dataset="",
    out="",
    model=Model(arch="resnet18", weights="a file"),
    optimizer=Optimizer(lr=1e-3, warmup=0.2),
    train=Loop(batch_size=12, precision="fp32"),
)
FROZEN_NORM = replace(CONFIG, model=replace(CONFIG.model, freeze_norm=True))
EVERYTHING = replace(
    CONFIG,
    model=replace(CONFIG.model, dropout=0.3, freeze="layer1", unfreeze_every=1),
    optimizer=Optimizer(name="sgd", lr=1e-2, schedule="plateau", clip_norm=0.5, layer_decay=0.8),
    loss=Loss(label_smoothing=0.1, class_weights="balanced"),
    augment=Augment(mixup=0.2, cutmix=1.0),
    train=replace(CONFIG.train, ema=0.9, accumulate=2),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For so small a network threads only wait for each other, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights() -> Weights:
    torch.manual_seed(1)
    return Weights(create_network("resnet18", 3).state_dict())  # type: ignore[arg-type]


def learner(config: Train, worker: Worker = SINGLE_WORKER) -> Learner:
    balance = torch.tensor([0.5, 1.0, 2.0]) if config.loss.class_weights == "balanced" else None
    return Learner(LearningTask(config, 3, weights(), PLAN, balance), CPU, worker)


def train(config: Train, learner: Learner, steps: range, worker: Worker = SINGLE_WORKER) -> float:
    """Train some steps; return the sum of this worker's losses."""
    total = 0.0
    for step in steps:
        if step == steps[0] or step % PLAN.steps_per_epoch == 0:
            learner.begin_epoch(PLAN.epoch(step))
        whole = torch.from_numpy(PLAN.batch(step))
        own = torch.from_numpy(PLAN.batch(step, worker))
        balanced = config.loss.class_weights == "balanced"
        weight = torch.tensor([0.5, 1.0, 2.0])[LABELS[whole]].sum().item() if balanced else len(whole)
        _, losses = learner.step(IMAGES[own], LABELS[own], step, weight)
        total += losses.double().sum().item()
        if (step + 1) % PLAN.steps_per_epoch == 0:
            learner.end_epoch(val_loss=1.0)
    return total


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name].double() - other[name].double()).abs().max().item() for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "name"), [(2, "adamw"), (3, "sgd")])
def test_several_workers_learn_what_one_does(workers: int, name: str, tmp_path: Path) -> None:
    alone = learner(with_optimizer(name))
    loss = train(FROZEN_NORM, alone, range(PLAN.steps_per_epoch))
    spawn(run_worker, args=(workers, name, str(tmp_path)), nprocs=workers)  # type: ignore[no-untyped-call]
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(workers)]
    assert sum(result["loss"] for result in results) / PLAN.samples == pytest.approx(loss / PLAN.samples, abs=1e-5)
    for result in results:
        assert differences(result["network"], results[0]["network"]) == 0
        if name == "sgd":  # adamw divides by gradients, however small: their last bits decide where they are nearly 0
            assert differences(result["network"], alone.network.state_dict()) < 1e-5


def with_optimizer(name: str) -> Train:
    return replace(FROZEN_NORM, optimizer=Optimizer(name=name, lr=1e-3))  # type: ignore[arg-type]


def run_worker(rank: int, workers: int, name: str, folder: str) -> None:
    use_all_cores(share=workers)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=workers)
    own = learner(with_optimizer(name), Worker(rank, workers))
    loss = train(FROZEN_NORM, own, range(PLAN.steps_per_epoch), Worker(rank, workers))
    torch.save({"loss": loss, "network": own.network.state_dict()}, Path(folder, f"{rank}.pt"))
    torch.distributed.destroy_process_group()


def test_a_batch_in_parts_is_a_batch() -> None:
    plain = with_optimizer("sgd")
    config = replace(plain, train=replace(plain.train, accumulate=5))
    whole, in_parts = learner(plain), learner(config)
    loss = train(plain, whole, range(PLAN.steps))
    assert train(config, in_parts, range(PLAN.steps)) == pytest.approx(loss, abs=1e-3)
    assert differences(whole.network.state_dict(), in_parts.network.state_dict()) < 1e-5


@pytest.mark.parametrize("config", [CONFIG, EVERYTHING], ids=["plain", "everything"])
def test_resumed_at_any_step_it_is_the_same_to_the_bit(config: Train, tmp_path: Path) -> None:
    undisturbed, saved = learner(config), learner(config)
    train(config, undisturbed, range(PLAN.steps))
    steps = [0, 1, 3, 5, PLAN.steps]
    for start, stop in pairwise(steps):
        train(config, saved, range(start, stop))
        torch.save(saved.state_dict(), tmp_path / f"{stop}.pt")
    for stop in steps[1:]:
        resumed = learner(config)
        resumed.load_state_dict(torch.load(tmp_path / f"{stop}.pt"))
        train(config, resumed, range(stop, PLAN.steps))
        assert differences(resumed.evaluation_state_dict(), undisturbed.evaluation_state_dict()) == 0
        assert differences(resumed.network.state_dict(), undisturbed.network.state_dict()) == 0
        assert resumed.learning_rate == undisturbed.learning_rate


def test_clipping_bounds_the_step() -> None:
    config = replace(CONFIG, optimizer=Optimizer(name="sgd", lr=1.0, weight_decay=0, warmup=0, clip_norm=1e-3))
    clipped = learner(config)
    before = {name: tensor.clone() for name, tensor in clipped.network.state_dict().items()}
    train(config, clipped, range(1))
    names = [name for name, _ in clipped.network.named_parameters()]
    moved = sum(((clipped.network.state_dict()[name] - before[name]) ** 2).sum() for name in names)
    # Nesterov's first step is the gradient times one and its momentum of 0.9.
    assert float(moved) ** 0.5 == pytest.approx(1e-3 * 1.9, rel=1e-3)
    assert clipped.state_dict()["norms"].item() > 0.1  # what is told is the norm before clipping


def test_the_average_is_what_is_kept() -> None:
    config = replace(CONFIG, train=replace(CONFIG.train, ema=0.5))
    averaging = learner(config)
    states: list[dict[str, Any]] = [{k: v.clone() for k, v in averaging.network.state_dict().items()}]
    train(config, averaging, range(1))
    states.append(averaging.network.state_dict())
    # The first update keeps a tenth of the average, whatever the decay.
    expected = 0.1 * states[0]["fc.weight"] + 0.9 * states[1]["fc.weight"]
    assert torch.allclose(averaging.evaluation_state_dict()["fc.weight"], expected, atol=1e-7)
    assert averaging.evaluation_network is not averaging.network
    plain = learner(CONFIG)
    assert plain.evaluation_network is plain.network


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor looks at old names of every module
def test_compiled_it_learns_the_same() -> None:
    config = replace(FROZEN_NORM, train=replace(FROZEN_NORM.train, compile=True))
    plain, compiled = learner(FROZEN_NORM), learner(config)
    train(FROZEN_NORM, plain, range(1))
    train(config, compiled, range(1))
    assert differences(plain.network.state_dict(), compiled.network.state_dict()) < 1e-4


def test_a_scaler_is_there_for_fp16_only() -> None:
    assert learner(CONFIG).state_dict()["scaler"] == {}
    scaled = learner(replace(CONFIG, train=replace(CONFIG.train, precision="fp16")))
    assert scaled.state_dict()["scaler"]["scale"] == 65536


def test_a_step_that_the_scaler_skips_moves_nothing() -> None:
    scaled = learner(replace(CONFIG, train=replace(CONFIG.train, precision="fp16", ema=0.9)))
    state = scaled.state_dict()
    state["scaler"]["scale"] = 2.0**127
    scaled.load_state_dict(state)
    before = {name: tensor.clone() for name, tensor in scaled.network.named_parameters()}
    train(CONFIG, scaled, range(1))
    after = scaled.state_dict()
    assert after["scaler"]["scale"] == 2.0**126
    assert after["ema"] is not None
    assert (after["schedule"]["step"], after["ema"]["updates"]) == (0, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in scaled.network.named_parameters())
    after["scaler"]["scale"] = 1.0
    scaled.load_state_dict(after)
    train(CONFIG, scaled, range(1))
    after = scaled.state_dict()
    assert after["ema"] is not None
    assert (after["schedule"]["step"], after["ema"]["updates"]) == (1, 1)
    assert not all(torch.equal(tensor, before[name]) for name, tensor in scaled.network.named_parameters())
