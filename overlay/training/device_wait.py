"""Time for which a device waits between two training steps, for batches above all, and for checkpoints."""

import time
from collections import deque

import torch


class DeviceMoment:
    """Moment in a device's work: on a CPU, now; on a GPU, when it comes to this place in its queue."""

    def __init__(self, device: torch.device) -> None:
        self._at = time.perf_counter()
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def is_past(self) -> bool:
        """Whether the device has come to the moment."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def seconds_until(self, later: "DeviceMoment") -> float:
        """Return the seconds to a later moment; the device has come to both."""
        if self._event is None or later._event is None:
            return later._at - self._at
        return float(self._event.elapsed_time(later._event)) / 1000


class DeviceWait:
    """Clock of the time in which a device has no step to compute, since the last `reset`.

    A GPU's steps are queued: where the process has no batch, its device may still compute, which is no wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Begin anew, with the wait for the first step; the device is idle."""
        self._began = self._ended = DeviceMoment(self._device)
        self._waits = deque[tuple[DeviceMoment, DeviceMoment]]()
        self._seconds = 0.0

    def begin_step(self) -> None:
        """End a wait: a step follows on the device."""
        self._waits.append((self._ended, DeviceMoment(self._device)))

    def end_step(self) -> None:
        """Begin a wait: the step is computed, or queued."""
        self._ended = DeviceMoment(self._device)
        while self._waits and self._waits[0][1].is_past():
            self._add_first()

    def share(self) -> float | None:
        """Return the share of the time up to the last step's end that was waited; the device is idle.

        None where there was no step.
        """
        while self._waits:
            self._add_first()
        whole = self._began.seconds_until(self._ended)
        return self._seconds / whole if whole else None

    def _add_first(self) -> None:
        begin, end = self._waits.popleft()
        self._seconds += begin.seconds_until(end)
