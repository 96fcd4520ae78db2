"""Command lines in documents and configuration files: found, and parsed as the program parses them."""

import re
import shlex

from overlay.cli.main import main
from overlay.cli.parser import parse_arguments as parse
from overlay.cli.verbs import VERBS, Config
from overlay.config import Submit

__all__ = ["VERBS", "command_lines", "commented_lines", "main", "parse", "parse_line"]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"(?:^|&& |\| )(?:uv run )?(?:[A-Z_]+=\S+ )*(overlay [^|&]+)")


def command_lines(markdown: str) -> list[str]:
    """Return the commands of a document, each from ``overlay`` to its end, in blocks and in code spans."""
    blocks = [block for language, block in _FENCE.findall(markdown) if language != "python"]
    prose = _FENCE.sub("", markdown)
    indented = [line for line in prose.splitlines() if line.startswith("    ")]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    lines = [*indented, *spans, *(line for block in blocks for line in block.splitlines())]
    return _commands(lines)


def commented_lines(yaml: str) -> list[str]:
    """Return the commands in the comments of a YAML file."""
    return _commands([line.removeprefix("#") for line in yaml.splitlines() if line.startswith("#")])


def parse_line(line: str) -> Config:
    """Parse ``overlay VERB ...``; of a submission, the job.

    Raises:
        RequestError: the program would refuse it.
    """
    _, verb, *words = shlex.split(line)
    config = parse(verb, words)
    return parse_line(shlex.join(["overlay", *config.job])) if isinstance(config, Submit) and config.job else config


def _commands(lines: list[str]) -> list[str]:
    found = (_COMMAND.search(line.strip()) for line in lines)
    return [match[1].strip() for match in found if match]
