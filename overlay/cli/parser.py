"""Command-line parser: arguments of a verb to its validated configuration, and back.

jsonargparse reads files, nested keys and types, and writes the help. Added here are positional arguments that a
configuration file may give as well, error messages of one line, and the way back, so that a job on a cluster gets the
same request.
"""

import argparse
import math
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, get_origin

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from overlay.cli.verbs import POSITIONAL, USAGE, VERBS, Config
from overlay.config.credentials import check_file, check_no_credentials, check_words
from overlay.config.options import check_local_places, describe_type, explain_parse_error, nearest, option_types
from overlay.errors import RequestError

_OPTIONS = " [--config FILE.yaml] [--section.key VALUE ...]"


def parse_arguments(verb: str, words: Sequence[str]) -> Config:
    """Parse the arguments after the verb; the command line overrides the --config file.

    Raises:
        RequestError: an option is unknown, a value has the wrong type, an argument is missing, the --config file can't
            be read, there are credentials in an address, or an option names a bucket that takes a path on a disk only.
        SystemExit: after --help or --print_config.
    """
    check_words(words)
    kinds = option_types(VERBS[verb])
    parser = _parser(verb)
    try:
        options = _as_options(verb, words, kinds)
        for file in (option.partition("=")[2] for option in options if option.startswith("--config=")):
            check_file(file)
        config = parser.instantiate(parser.parse_args(options))
    except RequestError:
        raise
    except (argparse.ArgumentError, ValueError, TypeError, OSError) as error:
        raise RequestError(_one_line(verb, error, kinds)) from None
    request = VERBS[verb](**{field.name: config[field.name] for field in fields(VERBS[verb])})
    check_no_credentials("", request)
    check_local_places(request)
    return request


def to_words(config: Config) -> list[str]:
    """Serialise a configuration as command-line arguments: the verb, and the options that differ from the defaults."""
    verb = type(config).__name__.lower()
    first: list[str] = []
    for name in POSITIONAL[verb]:
        value = getattr(config, name)
        first += value if isinstance(value, list) else [value]
    options = [
        f"--{key}={value if isinstance(value, str) else _yaml(value)}"
        for key, value in _changed(config).items()
        if key not in POSITIONAL[verb]
    ]
    dashed = any(word.startswith("-") for word in first)
    return [verb, *options, "--", *first] if dashed else [verb, *first, *options]


class _Help(DefaultHelpFormatter):
    """Help without jsonargparse's options that load a file into one section, and with plain names of types."""

    def format_help(self) -> str:
        return re.sub(r"Annotated\[str,\s+'(?:local )?([\w:,]+)'\]", r"\1", super().format_help())

    def add_argument(self, action: argparse.Action) -> None:
        if action.metavar != "CONFIG" or action.dest == "config":
            super().add_argument(action)


@cache
def _parser(verb: str) -> ArgumentParser:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"overlay {verb}",
        usage=f"overlay {verb} {USAGE[verb]}" + ("" if verb == "submit" else _OPTIONS),
        exit_on_error=False,
        allow_abbrev=False,
        formatter_class=_Help,
    )
    parser.add_argument(
        "--config", action="config", metavar="FILE.yaml", help="options from a file, as --print_config writes it"
    )
    parser.add_class_arguments(VERBS[verb])
    return parser


def _as_options(verb: str, words: Sequence[str], kinds: dict[str, Any]) -> list[str]:
    """Name each positional argument, and put --config first, so that the command line overrides the file."""
    files: list[str] = []
    options: list[str] = []
    positional: deque[str] = deque()
    rest = deque(words)
    while rest:
        word = rest.popleft()
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "--":
            positional.extend(rest)
            rest.clear()
        elif not word.startswith("-") or word == "-":
            positional.append(word)
        elif word in ("-h", "--help") or name == "print_config":
            options.append(word)
        elif name != "config" and (name not in kinds or not word.startswith("--")):
            raise RequestError(f"there is no option {word.partition('=')[0]}{nearest(name, (*kinds, 'config'))}")
        else:
            if not equals:
                value = _value(name, kinds.get(name), rest)
            (files if name == "config" else options).append(f"--{name}={value}")
    given = {option.removeprefix("--").partition("=")[0] for option in options}
    named = [*files, *options, *_name_positional(verb, positional, kinds, given)]
    for name, _, value in (option.partition("=") for option in named):
        if value == "--":  # argparse drops it before Python 3.13, wherever it stands
            raise RequestError(f"{name} is '--', which ends the options; write a path of this name as ./--")
    return named


def _value(name: str, kind: Any, rest: deque[str]) -> str:  # noqa: ANN401 - a type of any kind
    """Take the value of an option from the words after it; a boolean option may stand alone."""
    if kind is bool and (not rest or rest[0] not in ("true", "false")):
        return "true"
    if not rest or rest[0].startswith("--"):
        raise RequestError(f"--{name} has no value; give {describe_type(kind or str)} after it")
    return rest.popleft()


def _name_positional(verb: str, positional: deque[str], kinds: dict[str, Any], given: set[str]) -> list[str]:
    """Name the positional arguments in their order, without those that are ``given`` as options."""
    named = []
    for name in POSITIONAL[verb]:
        if not positional:
            break
        if name in given:
            continue
        if get_origin(kinds[name]) is list:
            named.append(f"--{name}={_yaml(list(positional))}")
            positional.clear()
        else:
            named.append(f"--{name}={positional.popleft()}")
    if positional:
        raise RequestError(f"{positional[0]!r} is one argument too many; the order is: overlay {verb} {USAGE[verb]}")
    return named


def _yaml(value: object) -> str:
    """Write a value as YAML on one line; the strings of a list are quoted, since 1e5 would be a number."""
    style = '"' if isinstance(value, list) else None
    return yaml.safe_dump(value, default_flow_style=True, default_style=style, width=math.inf).partition("\n")[0]


def _one_line(verb: str, error: Exception, kinds: dict[str, Any]) -> str:
    """Rewrite an error message of jsonargparse in one line."""
    text = " ".join(str(error).split())
    if missing := re.match(r"the following arguments are required: (.*)$", text):
        return f"not given: {missing[1]}; the order is: overlay {verb} {USAGE[verb]}"
    return explain_parse_error(error, kinds)


def _changed(config: Any, prefix: str = "", usual: Any = None) -> dict[str, Any]:  # noqa: ANN401 - a section of any class
    """Return the options whose values are not the defaults, or not those of ``usual``: dotted name -> value."""
    changed: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if usual is not None:
            default = getattr(usual, field.name)
        if is_dataclass(value):
            changed |= _changed(value, f"{prefix}{field.name}.", default)
        elif default is MISSING or value != default:
            changed[prefix + field.name] = value
    return changed
