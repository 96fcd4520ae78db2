"""Fault injection by a full disk: the output of each verb on a tmpfs that is too small for it.

    python scripts/fault_injection/full_disk.py --megabytes 30
    python scripts/fault_injection/full_disk.py --verbs train --megabytes 30 --fill

Needs root, to mount. With --fill the disk has room when the command begins, so that no estimate refuses it, and another
file takes the room once the command has written something. Prints for each verb: status, seconds, bytes that are left
free, what is left in the folder and is no complete file (partial folders, temporary files), and the last line. Exits
with status 1 where a command ended with another status than 0, 1 or 2, without the line, or left something.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from overlay.storage.disk_space import free_bytes
from scripts.fault_injection.verb_commands import VERB_NAMES, VerbCommands

ROOM = 600
"""megabytes of the disk with --fill, before another file takes them"""


def main() -> int:
    """Run each verb on a small disk, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--verbs", nargs="+", default=VERB_NAMES, choices=VERB_NAMES)
    parser.add_argument("--fill", action="store_true", help="fill the disk while the command works")
    parser.add_argument("--images", type=int, default=24, help="of each class")
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="overlay-full-") as temporary:
        commands = VerbCommands(Path(temporary), options.images)
        for verb in options.verbs:
            commands.run(verb, "undisturbed")  # what it needs is there then
            with small_disk(commands.folder / "disk", ROOM if options.fill else options.megabytes) as disk:
                wrong += not _run(commands, verb, disk, options.fill)
    print(f"{wrong} wrong")
    return int(wrong > 0)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a tmpfs."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _run(commands: VerbCommands, verb: str, disk: Path, fill: bool) -> bool:
    out = disk / commands.out(verb, "out").name
    began = time.monotonic()
    with (commands.folder / "log").open("wb") as log:
        process = subprocess.Popen(commands.words(verb, "out", out), stdout=log, stderr=log)
        while fill and process.poll() is None:
            if any(disk.rglob("*.json")) or any(disk.rglob("*.parquet")):
                _fill(disk)
            time.sleep(0.05)
        process.wait()
    line = ((commands.folder / "log").read_text(errors="replace").splitlines() or [""])[-1]
    left = [
        str(path.relative_to(disk))
        for path in disk.rglob("*")
        if ".tmp" in path.name or (path.name.startswith("part") and path.is_dir())
    ]
    named = process.returncode in (0, 1, 2) and (process.returncode == 0 or ("bytes" in line and str(disk) in line))
    right = named and not left
    print(
        f"{verb:9} status {process.returncode} after {time.monotonic() - began:5.1f} s; {free_bytes(disk)} bytes free; "
        f"left: {left or 'nothing'}; {line}{'' if right else '   <- WRONG'}",
        flush=True,
    )
    return right


def _fill(disk: Path) -> None:
    """Take all room of the disk but a megabyte."""
    with (disk / "taken").open("ab") as file:
        while (free := free_bytes(disk)) > 2**20:
            file.write(bytes(min(free - 2**20, 2**24)))
            file.flush()


if __name__ == "__main__":
    sys.exit(main())
