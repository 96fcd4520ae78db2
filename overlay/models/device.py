"""Threads of torch on CPUs, and the precision that a device computes in."""

import os

import joblib
import torch

from overlay.config.train import TrainingPrecision


def use_all_cores(share: int = 1) -> None:
    """Set torch's threads to this machine's cores, divided among ``share`` processes, whatever OMP_NUM_THREADS is.

    Ray sets that variable from a worker's reserved CPUs, which would leave torch on one thread.
    """
    torch.set_num_threads(max(1, joblib.cpu_count() // share))


def use_deterministic_algorithms() -> None:
    """Let torch use deterministic algorithms only, in this process; before its first computation on a GPU.

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS reads when its handle is made
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose by time


def has_bf16(device: torch.device) -> bool:
    """Return whether the device has instructions for bfloat16, so that it need not emulate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def autocast(device: torch.device, precision: TrainingPrecision) -> torch.autocast:
    """Return the autocast context of a forward pass: bf16, fp16, or a disabled one for fp32."""
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
