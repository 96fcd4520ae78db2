import math

import pytest

from overlay.training.history import Epoch
from pipelines.training.monitor import draw_history_curves


@pytest.mark.parametrize("losses", [[0.5, 0.25], [0.5], [0.5, math.nan], [math.nan]])
def test_curves_are_a_picture_even_of_a_diverged_run(losses: list[float]) -> None:
    epochs = [
        Epoch(i + 1, 0.5, 0.5, loss, 0.5, 0.5, 1e-4, 10.0, 2.0, 0.1, 5.0, None, 0.25) for i, loss in enumerate(losses)
    ]
    assert draw_history_curves(epochs, best=0).startswith(b"\x89PNG")
