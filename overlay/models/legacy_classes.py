"""Class names in a model file of another program, in the order of its outputs, under any key that is usual for them.

A mapping that fits the outputs is read or refused, and so are two that disagree: a wrong order of the classes changes
every diagnosis without a sign.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from overlay.errors import UnsupportedModel
from overlay.models.inert_pickle import Record
from overlay.models.plain_values import plain_value
from overlay.models.safe_load import is_state_dict
from overlay.models.visit_budget import VisitBudget

_TO_INDEX = re.compile(r"(?:class|label|name|cat|category|target)s?(?:to|2)(?:idx|index|id|ix|int|num)(?:s|es)?")
_FROM_INDEX = re.compile(r"(?:idx|index|id|ix|int|num|i)(?:to|2)(?:class|label|name|cat|category|target)s?(?:es|name)?")
_NAMES = re.compile(
    r"(?:class|label|category|target|categories|classes)(?:es|s)?(?:name|map|mapping|dict|list|label|indice|index|order)"
    r"(?:s|es|names)?|class(?:es)?|labels?|names|categories|labelsmap|mapping|targetnames|labelencoder|diagnoses"
)
_PASSED_OVER = re.compile(r"optim|sched|callback|loop|state_?dict|history|metric|^loss|^loaders?$", re.IGNORECASE)
_FILE_NAME = re.compile(r".+\.(?:json|txt|ya?ml|csv|pkl|pickle|names|pbtxt|npy)", re.IGNORECASE)
_DEEPEST, _MOST_VALUES = 5, 10_000
_LONGEST_TEXT = 100_000

Direction = Literal["name to index", "index to name"] | None


@dataclass(frozen=True)
class ClassNames:
    """Class names as a file has them."""

    names: tuple[str, ...]
    """in the order of the outputs"""
    key: str
    """where they stand, such as hyper_parameters.id2label"""


class _Unreadable(ValueError):
    """Mapping that fits the outputs and can't be read; the message is the reason."""


def find_class_names(content: Mapping[Any, Any], outputs: int) -> ClassNames | None:
    """Return the class names in a file for a network with this number of outputs; None where it has none.

    Where no mapping has as many classes as outputs, the first one is returned as it is.

    Raises:
        UnsupportedModel: a mapping fits the outputs and can't be read, two disagree, or there is more than can be
            looked at.
    """
    fitting: list[ClassNames] = []
    others: list[ClassNames] = []
    for key, direction, value in _mappings(content, "", 0, VisitBudget()):
        try:
            names = _read(value, direction, outputs)
        except _Unreadable as error:
            raise UnsupportedModel(
                f"has class names under {key}, and {error}; say their order with --legacy.classes"
            ) from error
        if names is not None:
            (fitting if len(names) == outputs else others).append(ClassNames(names, key))
    if differing := next((other for other in fitting[1:] if other.names != fitting[0].names), None):
        raise UnsupportedModel(
            f"has two orders of its classes, {', '.join(fitting[0].names)} under {fitting[0].key} and "
            f"{', '.join(differing.names)} under {differing.key}; say the right one with --legacy.classes"
        )
    return next(iter([*fitting, *others]), None)


def _mappings(
    content: Mapping[Any, Any], prefix: str, depth: int, budget: VisitBudget
) -> Iterator[tuple[str, Direction, Any]]:
    """Yield the key, the direction and the value of each entry whose key is one of class names."""
    budget.spend(min(len(content), _MOST_VALUES))
    for name, entry in list(content.items())[:_MOST_VALUES]:
        if not isinstance(name, str) or _PASSED_OVER.search(name):
            continue
        value, key = plain_value(entry), f"{prefix}{name}"
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        if isinstance(value, Mapping) and "classes_" in value:  # scikit-learn's encoder of labels
            yield key, None, value["classes_"]
        elif _TO_INDEX.fullmatch(plain):
            yield key, "name to index", value
        elif _FROM_INDEX.fullmatch(plain):
            yield key, "index to name", value
        elif _NAMES.fullmatch(plain):
            yield key, None, value
        elif isinstance(value, Mapping) and depth < _DEEPEST:
            budget.spend(len(value))
            if not is_state_dict(value):
                yield from _mappings(value, f"{key}.", depth + 1, budget)


def _read(given: Any, direction: Direction, outputs: int) -> tuple[str, ...] | None:  # noqa: ANN401
    """Return the names of one mapping; None where it is none, or doesn't fit and can't be read."""
    value = plain_value(given)
    if isinstance(value, str):
        return _read_text(value, direction, outputs)
    if isinstance(value, Mapping):
        pairs = [(plain_value(name), plain_value(item)) for name, item in list(value.items())[:_MOST_VALUES]]
        return _read_pairs(pairs, direction, outputs) if pairs else None
    if isinstance(value, list | tuple):
        return _read_list([plain_value(item) for item in value[:_MOST_VALUES]], outputs)
    if isinstance(value, Record) and (held := next(iter(value.args), value.items)) and isinstance(held, list | tuple):
        if len(held) == outputs:
            raise _Unreadable(f"a {value.kind} has no order that is known")
        return None
    return None


def _read_text(text: str, direction: Direction, outputs: int) -> tuple[str, ...] | None:
    text = text.strip()
    if text[:1] in ("{", "[", "(") and len(text) < _LONGEST_TEXT:
        for parse in (json.loads, ast.literal_eval):
            try:
                return _read(parse(text), direction, outputs)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
                if isinstance(error, _Unreadable):
                    raise
    if _FILE_NAME.fullmatch(text):
        raise _Unreadable(f"they stand in a file of their own, {text[:100]}")
    parts = [part.strip() for part in re.split(r"[,;\n|]", text[:_LONGEST_TEXT]) if part.strip()]
    return _read_list(parts, outputs) if len(parts) > 1 else None


def _read_pairs(pairs: list[tuple[Any, Any]], direction: Direction, outputs: int) -> tuple[str, ...] | None:
    forward = _ordered([(index, name) for name, index in pairs])
    backward = _ordered(pairs)
    if forward and backward and forward != backward:
        if direction is None:
            raise _Unreadable("it isn't clear whether they go from names to numbers or from numbers to names")
        return forward if direction == "name to index" else backward
    if found := forward or backward:
        return found
    numbers = {_index(value) for pair in pairs for value in pair}
    if len(pairs) == outputs or set(range(outputs)) <= numbers:
        shown = ", ".join(f"{str(name)[:30]}: {str(value)[:30]}" for name, value in pairs[:4])
        raise _Unreadable(f"they are no names for the numbers 0 to {outputs - 1} ({shown})")
    return None


def _ordered(pairs: list[tuple[Any, Any]]) -> tuple[str, ...] | None:
    """Return the names of pairs of index and name in the order of the indices, which must be 0, 1, 2, ..."""
    indices = [_index(index) for index, _ in pairs]
    names = [_name(name) for _, name in pairs]
    if sorted(index for index in indices if index is not None) != list(range(len(pairs))):
        return None
    if None in names or len(set(names)) < len(names):
        return None
    return tuple(str(name) for _, name in sorted(zip(indices, names, strict=True), key=lambda pair: pair[0] or 0))


def _read_list(values: list[Any], outputs: int) -> tuple[str, ...] | None:
    names = [_name(value) for value in values]
    indices = [_index(value) for value in values]
    permuted = None not in indices and indices != list(range(len(values))) and set(indices) == set(range(len(values)))
    if None in names or len(set(names)) < len(names) or permuted:
        if len(values) == outputs and outputs > 1:
            shown = ", ".join(str(value)[:30] for value in values[:4])
            raise _Unreadable(f"they are no list of different names ({shown})")
        return None
    return tuple(str(name) for name in names) if len(names) > 1 else None


def _index(value: Any) -> int | None:  # noqa: ANN401
    """Return a whole number that is written as one, as text or as a float; None for all else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*\d{1,9}\s*", value) else None
    return int(value) if isinstance(value, int | float) and 0 <= value < 1e9 and value == int(value) else None


def _name(value: Any) -> str | None:  # noqa: ANN401
    """Return the name of a class that is text or a number; None for all else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None
