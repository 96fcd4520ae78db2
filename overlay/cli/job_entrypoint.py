"""Entry point of a Kubernetes RayJob: `overlay-job VERB ...`, whose exit status says whether a new cluster can help.

KubeRay retries a failed job on a new cluster, up to `backoffLimit`, whatever its exit status was. A refused request (2)
and unreadable inputs (3) would end the same way there, so they end with 0 here. The verb's own status is printed, and
stored beside its output in `OUT.exit.json`, for those who come when the pods are gone.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr
from datetime import UTC, datetime
from typing import TextIO

from overlay import __version__
from overlay.cli.main import main as run_verb
from overlay.cli.raw_lines import filter_raw_lines

SETTLED = {
    0: "done",
    2: "the request was refused, and nothing was written",
    3: "done, but at least one input could not be read",
}
"""exit statuses of a verb that a new cluster would not change, with their meaning"""


def run_job(argv: Sequence[str] | None = None) -> int:
    """Run a verb, report its exit status, and return 0 where the same command on a new cluster would end the same way.

    Every other status is returned as it is.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    filter_raw_lines()  # before the stream is replaced: the verb would leave it alone
    last = _LastLine(sys.stderr)
    with redirect_stderr(last):  # type: ignore[type-var]  # a text stream, as far as print and rich use one
        status = run_verb(words)
    meaning = SETTLED.get(status, "the work failed or was interrupted; the same command goes on")
    print(f"overlay-job: exit status {status}: {meaning}", file=sys.stderr, flush=True)
    if out := output_of(words):
        _store(out, words, status, {"meaning": meaning, "message": last.line if status else ""})
    return 0 if status in SETTLED else status


def output_of(words: Sequence[str]) -> str | None:
    """Return the value of --out, without the parser, which may have refused the command."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--out="):
            return word.partition("=")[2] or None
        if word == "--out":
            return following or None
    return None


def _store(out: str, words: Sequence[str], status: int, explained: dict[str, str]) -> None:
    """Write OUT.exit.json, or print why it can't be written: the status of the verb counts, not that of this file."""
    from overlay.storage.atomic import write_text_atomically
    from overlay.storage.path import StoragePath

    record = {
        "status": status,
        **explained,
        "command": shlex.join(["overlay", *words]),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
    }
    try:
        folder = StoragePath.of(out)
        folder.parent.make_folder()
        write_text_atomically(folder.parent / f"{folder.name}.exit.json", json.dumps(record, indent=2) + "\n")
    except (OSError, ValueError) as error:  # RequestError of an address that is none is a ValueError
        print(f"overlay-job: can't store the exit status beside {out}: {error}", file=sys.stderr, flush=True)


class _LastLine:
    """Text stream that passes all on to another, and keeps the last line that is not empty."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rest = ""
        self.line = ""

    def write(self, text: str) -> int:
        *ended, self._rest = (self._rest + text).split("\n")
        self.line = next((line for line in reversed(ended) if line.strip()), self.line)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


if __name__ == "__main__":
    sys.exit(run_job())
