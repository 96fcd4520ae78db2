"""Exponential moving average (EMA) of a network's weights, which often generalises better than the last weights."""

from copy import deepcopy
from typing import TypedDict

import torch
from torch import Tensor, nn


class EmaState(TypedDict):
    """State of an `Ema` in a checkpoint."""

    network: dict[str, Tensor]
    updates: int


class Ema:
    """Averaged copy of a network, whose parameters follow the trained ones slowly (Polyak & Juditsky 1992).

    Update n, counted from 0, keeps min(decay, (1 + n) / (10 + n)) of the average, as TensorFlow's
    ExponentialMovingAverage does: else the first weights would linger through a short run. Buffers, such as the running
    statistics of batch normalisation, are copied.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average one step towards an unwrapped network; call it after the optimizer's step."""
        kept = min(self._decay, (1 + self._updates) / (10 + self._updates))
        self._updates += 1
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - kept)
        if own := list(self.network.buffers()):
            torch._foreach_copy_(own, list(network.buffers()))

    def state_dict(self) -> EmaState:
        """Return the state that a resumed run needs."""
        return {"network": self.network.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: EmaState) -> None:
        """Resume from the state of another average of the same network."""
        self.network.load_state_dict(state["network"])
        self._updates = state["updates"]
