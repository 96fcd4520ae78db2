"""Candidates of a comparison: their names, and the options of each one's trainings."""

import argparse
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from overlay.config import Compare, Train, TrainingOptions, dotted
from overlay.config.credentials import check_file, check_no_credentials
from overlay.config.options import explain_parse_error, nearest, option_types
from overlay.errors import RequestError
from overlay.storage.path import StoragePath

SET_BY_COMPARE = ("out", "fold", "train.seed", "train.dry_run")


@dataclass(frozen=True)
class Candidate:
    """Candidate of a comparison that is trained in every fold."""

    name: str
    options: Train
    """of its trainings, but for fold, seed and folder of the run"""

    def training(self, folder: StoragePath, seed: int, fold: int) -> Train:
        """Return the request of one training, whose run is ``folder``."""
        loop = replace(self.options.train, seed=seed)
        return replace(self.options, out=str(folder), fold=fold, train=loop)


def read_candidates(config: Compare) -> list[Candidate]:
    """Return the candidates of ``archs`` or of the file ``candidates``, in the order given.

    Raises:
        RequestError: the file can't be read or is no mapping of names to options; an option is unknown, has a wrong
            value, or is set by the comparison itself; two candidates are alike, or there is only one.
    """
    base = Train(**{each.name: getattr(config, each.name) for each in fields(TrainingOptions)})
    if config.candidates is None:
        return [Candidate(name, replace(base, model=replace(base.model, arch=name))) for name in config.arch_names]
    given = _read_file(config.candidates)
    candidates = [Candidate(name, _parse_options(name, overrides, base)) for name, overrides in given.items()]
    if len(candidates) < 2:
        raise RequestError(f"{config.candidates} has {len(candidates)} candidates; a comparison needs two")
    for position, candidate in enumerate(candidates):
        for other in candidates[:position]:
            if candidate.options == other.options:
                raise RequestError(f"the candidates {other.name} and {candidate.name} are alike in every option")
    return candidates


def choose_reference(names: list[str], reference: str | None) -> str:
    """Return the name of the reference: the one asked for, or the first.

    Raises:
        RequestError: it is not among the names.
    """
    if reference is not None and reference not in names:
        raise RequestError(
            f"reference is {reference}, which is not among the candidates: {', '.join(names)}"
            f"{nearest(reference, names)}"
        )
    return reference or names[0]


def name_models(paths: list[str]) -> list[str]:
    """Return a short name for each model, by its path: the run's folder, with those above it where two are alike.

    Raises:
        RequestError: a path is given twice.
    """
    parts = [_name_parts(path) for path in paths]
    for position, own in enumerate(parts):
        if own in parts[:position]:
            raise RequestError(f"the model {paths[position]} is given twice")
    length = 1
    while len({own[-length:] for own in parts}) < len(parts):
        length += 1
    return ["-".join(own[-length:]) for own in parts]


def _name_parts(path: str) -> tuple[str, ...]:
    place = PurePosixPath(StoragePath.of(path).path)
    return (*place.parent.parts[1:], place.stem if place.suffix in (".pth", ".pt", ".safetensors") else place.name)


def _read_file(path: str) -> dict[str, Mapping[str, Any]]:
    check_file(path)
    try:
        content = yaml.safe_load(StoragePath.of(path).read_bytes().decode())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RequestError(f"candidates is {path}, which can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RequestError(f"{path} must map names of candidates to their options, as in `small: {{model: ...}}`")
    for name, overrides in content.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise RequestError(f"{path}: {name!r} is no name of a candidate, since it names a folder; use a-z, 0-9, -")
        if overrides is not None and not isinstance(overrides, dict):
            raise RequestError(f"{path}: the options of candidate {name} are {overrides!r}; give a mapping")
    return {name: overrides or {} for name, overrides in content.items()}


def _parse_options(name: str, overrides: Mapping[str, Any], base: Train) -> Train:
    """Return the options of a candidate: those of the command, with its own in their place.

    Raises:
        RequestError: an option is unknown, has a wrong value, or is set by the comparison; names the candidate.
    """
    from jsonargparse import ArgumentParser

    kinds = option_types(Train)
    merged: dict[str, Any] = asdict(base)
    for option, value in dotted(dict(overrides)).items():
        if option in SET_BY_COMPARE:
            raise RequestError(f"candidate {name}: {option} is set by compare itself; leave it away")
        if option not in kinds:
            raise RequestError(f"candidate {name}: there is no option {option}{nearest(option, kinds)}")
        *sections, last = option.split(".")
        target = merged
        for section in sections:
            target = target[section]
        target[last] = value
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Train)
    try:
        parsed = parser.instantiate(parser.parse_object(merged))
        options = Train(**{each.name: parsed[each.name] for each in fields(Train)})
        check_no_credentials("", options)
    except RequestError as error:
        raise RequestError(f"candidate {name}: {error}") from None
    except (argparse.ArgumentError, ValueError, TypeError) as error:
        raise RequestError(f"candidate {name}: {explain_parse_error(error, kinds)}") from None
    return options
