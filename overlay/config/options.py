"""Names and types of options, and the wording of errors in them, for the command line and files of options."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from overlay.config.common import table_column
from overlay.errors import RequestError


def option_types(config: type, prefix: str = "") -> dict[str, Any]:
    """Return the options of a configuration and of its sections: dotted name -> type of the value."""
    kinds: dict[str, Any] = {}
    for name, kind in get_type_hints(config).items():
        if is_dataclass(kind):
            kinds |= option_types(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            kinds[prefix + name] = kind
    return kinds


def named_places(config: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - a configuration of any class
    """Yield the options of a configuration that name a file, folder or address, with that of each value."""
    for name, value, kind in _texts(config):
        if place := _place_in(value, kind):
            yield name, place


def check_local_places(config: Any) -> None:  # noqa: ANN401 - a configuration of any class
    """Check that options for paths on a disk name no bucket, by their types.

    Raises:
        RequestError: one does; it names the option.
    """
    for name, value, kind in _texts(config):
        if "'local path'" in kind and "://" in value:
            raise RequestError(f"{name} is {value!r}, but it can't be in a bucket; give a path on a disk")


def _texts(config: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:  # noqa: ANN401 - a section of any class
    """Yield the options of a configuration: name, each text in its value, and its type with the marker."""
    for name, kind in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if is_dataclass(value):
            yield from _texts(value, f"{prefix}{name}.")
        several = value.split(",") if "'path,path'" in str(kind) and value else value
        for each in several if isinstance(several, list) else [several]:
            if isinstance(each, str) and each:
                yield prefix + name, each, str(kind)


def _place_in(value: str, kind: str) -> str | None:
    """Return the place in the value of an option, by the marker in its type; None where there is none."""
    if "'file:column'" in kind:
        table = table_column(value)
        return table and table[0]
    is_place = "path'" in kind or ("'weights'" in kind and value not in ("imagenet", "none"))
    return value if is_place else None


def explain_parse_error(error: Exception, kinds: Mapping[str, Any]) -> str:
    """Rewrite an error message of jsonargparse in one line, by the names of the options."""
    text = " ".join(str(error).split())
    if wrong := re.match(r'Parser key "([^"]+)": .*?(?:Got value|Given value): ?(.*)$', text):
        key, value = wrong.groups()
        kind = next((kinds[name] for name in (key, key.partition(".")[0]) if name in kinds), None)
        return f"{key} is {value!r}; it must be {describe_type(kind)}" if kind else text
    if unknown := re.match(r"Group '(\S+)' does not accept option '(\S+)'", text):
        key = ".".join(unknown.groups())
        return f"there is no option {key}{nearest(key, kinds)}"
    if unknown := re.match(r"Option '(\S+)' is not accepted", text):
        return f"there is no option {unknown[1]}{nearest(unknown[1], kinds)}"
    return re.sub(r'^Parser key "([\w.]+)": ', r"--\1: ", text)


def describe_type(kind: Any) -> str:  # noqa: ANN401 - a type of any kind
    """Return what values of a type are, in words: "a whole number", "one of cpu, cuda"."""
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is list:
        return "a list of texts"
    if get_origin(kind) is dict:
        return "a map such as {0: benign, 1: malignant}"
    return " or ".join(describe_type(each) for each in get_args(kind))


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most like a mistyped one, `; did you mean X?`; empty without one."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
