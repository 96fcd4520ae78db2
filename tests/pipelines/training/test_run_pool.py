"""Logs of trainings that run side by side."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from overlay.storage.path import StoragePath
from pipelines.training.run_pool import append_output


@pytest.mark.parametrize("where", ["disk", "bucket"])
def test_output_is_appended_to_a_log(where: str, tmp_path: Path, new_bucket: Callable[[], str]) -> None:
    log = StoragePath.of(tmp_path if where == "disk" else new_bucket()) / "logs/a.log"
    with append_output(log):
        print("epoch 1")
    with append_output(log):
        print("it failed", file=sys.stderr)
    assert log.read_bytes() == b"epoch 1\nit failed\n"
