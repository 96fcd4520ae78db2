"""Typed reading of a model card: every field of a dataclass is checked against its annotation."""

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from overlay.errors import RequestError

Card = TypeVar("Card")
_LONGEST = 60


def read_fields(kind: type[Card], values: object, where: str) -> Card:
    """Make a dataclass of values as JSON or a pickle has them; lists become tuples where the annotation is one.

    Raises:
        RequestError: a field is missing, not known, or of another type or value than its annotation says; ``where``
            names the card in the message.
    """
    if not isinstance(values, Mapping):
        raise RequestError(f"{where} is {_shown(values)}, and no dictionary; the file was changed or damaged")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    if strange := [name for name in values if name not in known]:
        raise RequestError(f"{where} has a field {_shown(strange[0])}, which is not known; update overlay")
    read: dict[str, Any] = {}
    for name, field in known.items():
        if name in values:
            read[name] = _value(hints[name], values[name], f"{where}: {name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise RequestError(f"{where} has no {name}; the file was changed or damaged")
    return kind(**read)


def _value(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in inner:
            return None
        return _value(next(kind for kind in inner if kind is not types.NoneType), value, where)
    if origin is Literal:
        if type(value) is str and value in inner:
            return value
    elif origin is tuple and isinstance(value, tuple | list):
        kinds = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
        if len(kinds) == len(value):
            return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {_value(inner[0], name, where): _value(inner[1], item, where) for name, item in value.items()}
    elif is_dataclass(hint) and isinstance(hint, type):
        return read_fields(hint, value, where)
    elif hint is float and type(value) in (int, float):
        return float(value)
    elif type(value) is hint:
        return value
    expected = getattr(hint, "__name__", None) if origin is None else str(hint).replace("typing.", "")
    raise RequestError(f"{where} is {_shown(value)}, not {expected}; the file was changed or damaged")


def _shown(value: object) -> str:
    """Write a value of a file in a few characters, without calling a method of a large one."""
    if isinstance(value, str):
        return repr(value[:_LONGEST])
    return repr(value) if isinstance(value, int | float | bool | None) else f"a {type(value).__name__}"
