"""Models whose probabilities are averaged: those of a cross-validation's folds, or a single one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from overlay.config import Legacy
from overlay.errors import RequestError
from overlay.models.model_file import ModelCard, ModelFile, load_model_file
from overlay.models.training_hashes import TrainingHashes

_SAME = ("classes", "size", "resize", "overlay", "max_pixels", "max_side")


@dataclass(frozen=True)
class Ensemble:
    """One model or several of the same classes, input and overlay."""

    members: tuple[ModelFile, ...]

    @property
    def card(self) -> ModelCard:
        """Card of the first model; of several, without thresholds, which nothing was validated for."""
        first = self.members[0].card
        return first if len(self.members) == 1 else replace(first, threshold=None, uncertain_below=None)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file; of several, all of them in their order, separated by commas."""
        return ",".join(member.sha256 for member in self.members)

    @property
    def hashes(self) -> TrainingHashes | None:
        """Hashes of the images that any of the models has seen; None where those of one are not known."""
        known = [member.hashes for member in self.members if member.hashes is not None]
        if len(known) < len(self.members):
            return None
        train, val = (np.concatenate([getattr(each, side) for each in known]) for side in ("train", "val"))
        return TrainingHashes.create(train, val, max(each.distance for each in known))


def load_ensemble(text: str, options: Legacy | None = None) -> Ensemble:
    """Load a model file or the folder of a run; or several, separated by commas, which no address of a bucket has.

    Raises:
        RequestError: a model can't be read, is named twice, or differs from the first in classes, input or overlay.
    """
    paths = [text] if "://" not in text and Path(text).exists() else text.split(",")
    members = tuple(load_model_file(path, options) for path in paths)
    _check_alike(paths, members)
    return Ensemble(members)


def _check_alike(paths: Sequence[str], members: Sequence[ModelFile]) -> None:
    first = members[0]
    for number, (path, member) in enumerate(zip(paths, members, strict=True)):
        if member.sha256 in [before.sha256 for before in members[:number]]:
            raise RequestError(f"model {path} is named twice, or is a copy of another; name each fold's model once")
        for name in _SAME:
            ours, theirs = getattr(member.card, name), getattr(first.card, name)
            if ours != theirs:
                raise RequestError(
                    f"the models can't be averaged: {name} of {path} is {ours}, and that of {paths[0]} is {theirs}"
                )
