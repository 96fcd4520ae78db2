import os

import joblib
import pytest
import torch

from overlay.models.device import autocast, has_bf16, use_all_cores, use_deterministic_algorithms

CPU = torch.device("cpu")


@pytest.mark.parametrize(("share", "threads"), [(1, 6), (2, 3), (4, 1), (8, 1)])
def test_the_cores_are_shared_out_and_each_process_has_one(
    share: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 6)
    before = torch.get_num_threads()
    use_all_cores(share)
    assert torch.get_num_threads() == threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("capabilities", "known"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({"avx2": True}, False)],
)
def test_bf16_by_what_the_processor_says(
    capabilities: dict[str, bool], known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bf16(CPU) is known
    with autocast(CPU, "auto"):
        assert torch.is_autocast_enabled("cpu") is known


@pytest.mark.parametrize(("precision", "kind"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_precision_is_what_was_asked_for(precision: str, kind: torch.dtype) -> None:
    layer = torch.nn.Linear(2, 2)
    with autocast(CPU, precision):  # type: ignore[arg-type]
        assert layer(torch.zeros(1, 2)).dtype == kind


def test_only_deterministic_algorithms_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    try:
        use_deterministic_algorithms()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)
