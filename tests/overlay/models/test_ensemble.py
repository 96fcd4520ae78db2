from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from overlay.config import OverlayStyle
from overlay.errors import RequestError
from overlay.models.ensemble import load_ensemble
from overlay.models.model_file import ModelCard, load_model_file, save_model_file
from overlay.models.training_hashes import TrainingHashes
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath


def write(path: Path, seed: int, hashes: TrainingHashes | None = None, **changes: object) -> Path:
    torch.manual_seed(seed)
    fields = ("resnet18", ("a", "b"), 32, "squash", (0.5,) * 3, (0.5,) * 3, OverlayStyle(), "", "", "")
    card = ModelCard(*fields, positive="a", threshold=0.3, uncertain_below=0.6)  # type: ignore[arg-type]
    changed = ModelCard(**{**vars(card), **changes})
    path.parent.mkdir(exist_ok=True)
    save_model_file(path, OrderedDict(torchvision.models.resnet18(num_classes=2).state_dict()), changed, hashes)
    return path


def hashes(seed: int) -> TrainingHashes:
    random = np.random.default_rng(seed)
    train, val = (random.integers(0, 2**64, (n, 4), np.uint64) for n in (3, 2))
    return TrainingHashes.create(train, val, 30 + seed)


def test_models_of_folds_are_one_without_thresholds(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"run-{i}" / "Resnet_fineTuning.pth", i, hashes(i)) for i in range(2))
    found = load_ensemble(f"{first.parent},{second}")
    assert [member.path for member in found.members] == [str(first), str(second)]
    assert found.sha256 == f"{load_model_file(first).sha256},{load_model_file(second).sha256}"
    assert (found.card.flag, found.card.uncertain_below, found.card.classes) == (None, None, ("a", "b"))
    assert found.hashes is not None
    assert (len(found.hashes.train), len(found.hashes.val), found.hashes.distance) == (6, 4, 31)


def test_one_model_is_as_it_is_also_with_a_comma_in_its_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a,b.pth", 0)
    found = load_ensemble(str(file))
    assert (found.card, found.sha256) == (load_model_file(file).card, load_model_file(file).sha256)
    assert found.hashes is None


def test_models_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "m.pth", 0)
    other = write(tmp_path / "n.pth", 1, size=64)
    with pytest.raises(RequestError, match=r"can't be averaged: size of .*n\.pth is 64, and that of .*m\.pth is 32"):
        load_ensemble(f"{first},{other}")
    with pytest.raises(RequestError, match=r"m\.pth is named twice, or is a copy of another"):
        load_ensemble(f"{first},{first}")
    with pytest.raises(RequestError, match=r"no weights at .*none\.pth; check the path"):
        load_ensemble(f"{first},{tmp_path}/none.pth")


def test_models_of_folds_in_a_bucket(tmp_path: Path, new_bucket: Callable[[], str]) -> None:
    local = write(tmp_path / "m.pth", 0)
    first, second = (StoragePath.of(new_bucket()) / name for name in ("first.pth", "run"))
    for seed, place in enumerate((first, second / "Resnet_fineTuning.pth")):
        with write_atomically(place) as temporary:
            temporary.write_bytes(write(tmp_path / "m.pth", seed).read_bytes())
    found = load_ensemble(f"{first},{second}")
    assert [member.path for member in found.members] == [str(first), str(second / "Resnet_fineTuning.pth")]
    assert load_ensemble(f"{first},{local}").sha256 == found.sha256
