from dataclasses import replace

import pytest

from overlay.config import Loop, Model, Optimizer, Train
from overlay.models.network import create_network
from overlay.training.checkpoint_size import checkpoint_bytes, model_bytes, run_bytes

CONFIG = Train(dataset="d", out="o", model=Model(arch="resnet18", weights="none"))


def test_the_estimate_is_the_size_of_the_tensors() -> None:
    state = create_network("resnet18", 3).state_dict()
    weights = sum(tensor.nbytes for tensor in state.values())
    assert model_bytes("resnet18", 3) == weights
    assert checkpoint_bytes(CONFIG, 3) == 4 * weights  # weights, two moments of AdamW, and the best epoch's weights
    assert checkpoint_bytes(replace(CONFIG, optimizer=Optimizer(name="sgd")), 3) == 3 * weights
    assert checkpoint_bytes(replace(CONFIG, train=Loop(ema=0.9)), 3) == 5 * weights


@pytest.mark.parametrize(("resumed", "checkpoints"), [(False, 2), (True, 1)])
def test_a_run_needs_room_for_a_checkpoint_beside_another(resumed: bool, checkpoints: int) -> None:
    needed = checkpoints * checkpoint_bytes(CONFIG, 3) + model_bytes("resnet18", 3)
    assert run_bytes(CONFIG, 3, resumed=resumed) == needed
