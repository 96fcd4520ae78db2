"""Decisions of a training run that depend on the machine where it begins: batch size, precision, order of samples."""

from dataclasses import replace
from typing import Literal

import torch

from overlay.errors import RequestError
from overlay.models.device import has_bf16
from overlay.training.run_folder import RunFacts
from pipelines.runtime.gpu_call import call_on_gpu
from pipelines.training import dry_run
from pipelines.training.request_check import trains_in_memory
from pipelines.training.setup import TrainingSetup


def decide_facts(setup: TrainingSetup) -> RunFacts:
    """Decide for a run that begins.

    Raises:
        RequestError: train.batch_size is "auto" and no batch can be tried.
        WorkError: train.batch_size is "auto" and not even the smallest batch fits into a GPU.
    """
    loop, device = setup.config.train, setup.placement.device
    automatic: Literal["bf16", "fp32"] = "bf16" if loop.precision == "auto" and _computes_bf16(device) else "fp32"
    return RunFacts(
        batch_size=dry_run.choose_batch_size(setup),
        precision=automatic if loop.precision == "auto" else loop.precision,
        order="memory" if trains_in_memory(setup.config, setup.dataset) else "windowed",
        engine="torch.compile" if loop.compile else "torch",
        device=device,
        workers=setup.placement.most_workers,
    )


def apply_facts(setup: TrainingSetup, facts: RunFacts) -> TrainingSetup:
    """Return the setup with the precision that the run began with; print what is slower or differs on this machine.

    Raises:
        RequestError: the precision is fp16 and the device a CPU.
    """
    device = setup.placement.device
    if facts.precision == "fp16" and device == "cpu":
        raise RequestError("the run was begun in fp16, which needs a GPU; resume it on one, or choose another --out")
    if device != facts.device:
        print(f"begun on {facts.device} and resumed on {device}: the last digits of the results differ")
        if facts.precision == "bf16" and not _computes_bf16(device):
            print(f"the run's precision is bf16, which this {device} has no instructions for: it is slow here")
    return replace(setup, config=replace(setup.config, train=replace(setup.config.train, precision=facts.precision)))


def _computes_bf16(device: str) -> bool:
    """Return whether the workers' device has instructions for bf16; the driver need not have their GPU."""
    if device == "cpu":
        return has_bf16(torch.device("cpu"))
    return call_on_gpu(has_bf16, torch.device("cuda"))
