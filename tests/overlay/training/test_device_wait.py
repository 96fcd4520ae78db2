import pytest
import torch

from overlay.training.device_wait import DeviceWait


def test_the_time_between_steps_is_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 13.0, 14.0, 15.0, 18.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    wait = DeviceWait(torch.device("cpu"))
    assert wait.share() is None
    wait.begin_step()  # after 3 s
    wait.end_step()
    wait.begin_step()  # after 1 s
    wait.end_step()
    assert wait.share() == 4 / 8
    assert wait.share() == 4 / 8


def test_each_epoch_has_its_own_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 2.0, 50.0, 50.25, 51.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    wait = DeviceWait(torch.device("cpu"))
    wait.begin_step()
    wait.end_step()
    wait.reset()
    assert wait.share() is None
    wait.begin_step()
    wait.end_step()
    assert wait.share() == 0.25
