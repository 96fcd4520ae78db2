"""Imports of the processes of tasks, which unpickle a function by importing its module."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from overlay.config import OverlayStyle
from overlay.models.model_file import ModelCard
from overlay.sources.decode import DecodeLimits, GroupDecoder, StoredLook
from overlay.sources.manifest import Manifest
from overlay.storage.path import StoragePath

TASKS = [
    "pipelines.training.batch_stream",
    "pipelines.training.image_source",
    "pipelines.training.shard_source",
    "pipelines.training.status_board",
    "pipelines.inference.read_groups",
    "pipelines.runtime.dataset_rows",
    "pipelines.runtime.duplicate_tasks",
    "pipelines.runtime.shared_disk",
    "pipelines.runtime.stage_tasks",
    "overlay.evaluation.audit_rows",
    "pipelines.prepare",
    "pipelines.check",
]


def test_a_task_that_reads_or_decodes_does_not_load_torch() -> None:
    """Its process would take seconds longer to start, and hundreds of megabytes."""
    program = f"import sys, {', '.join(TASKS)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_predictions_are_decoded_by_such_a_task() -> None:
    from pipelines.inference import ray_backend

    assert vars(ray_backend)["decode_groups"].__module__ in TASKS


def test_what_such_a_task_is_given_does_not_load_torch(tmp_path: Path) -> None:
    card = ModelCard("resnet18", ("a", "b"), 32, "pad", (0.5,) * 3, (0.5,) * 3, OverlayStyle(), "", "none", "")
    manifest = Manifest(StoragePath.of(tmp_path), 3, np.arange(2))
    decoder = GroupDecoder(manifest, StoredLook.of(card), DecodeLimits())
    program = "import pickle, sys; print(pickle.load(sys.stdin.buffer).look.resize, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(decoder), capture_output=True, check=True)
    assert done.stdout == b"pad False\n"
