"""Fault injection for `overlay compare`: SIGKILLs at random moments, compared with an undisturbed comparison.

    python scripts/fault_injection/compare.py --kills 5 --seed 0

The command and all of its processes are killed at a random moment, and the command is run again, unchanged, until it
succeeds. One worker, fp32: the tables must be equal to the bit, but for times and paths, and finished trainings must be
left as they are. Exits with status 1 where they differ.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq

from scripts.fault_injection.processes import end, kill_group, start, wait

_TABLES = ("predictions", "comparison", "label_doubts", "results")
_DIFFERING = {"run", "seconds", "images_per_second"}
_ARCHS = ("resnet18", "mobilenet_v3_small")


def main() -> int:
    """Make a dataset with three folds, compare two networks without and with kills, and compare the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=12, help="images of each class")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="overlay-kills-") as temporary:
        folder = Path(temporary)
        _prepare(folder, options.images)
        began = time.monotonic()
        undisturbed = start(_command(folder, "undisturbed", options.epochs))
        assert undisturbed.wait() == 0, undisturbed.returncode
        duration = time.monotonic() - began
        print(f"undisturbed: {duration:.0f} s, {len(_finished(folder / 'undisturbed'))} trainings", flush=True)
        kept: dict[Path, int] = {}
        for number in range(options.kills):
            driver = start(_command(folder, "disturbed", options.epochs))
            wait(driver, moment := chance.uniform(5.0, duration * 0.5))
            if driver.poll() is not None:
                print(f"  done before kill {number + 1}; give more epochs")
                break
            kill_group(driver)
            end(driver)
            now = _finished(folder / "disturbed")
            again = [file for file in kept if now.get(file) != kept[file]]
            print(
                f"  kill {number + 1} after {moment:.0f} s: {len(now)} finished, {len(again)} of them anew", flush=True
            )
            if again:
                return 1
            kept = now
        last = start(_command(folder, "disturbed", options.epochs))
        assert last.wait() == 0, last.returncode
        now = _finished(folder / "disturbed")
        again = [file for file in kept if now.get(file) != kept[file]]
        print(f"then {len(now) - len(kept)} more trainings; {len(again)} of the finished ones anew")
        different = [name for name in _TABLES if not _equal(folder, name)]
        print(
            f"tables: {', '.join(different)} differ" if different else f"tables: {', '.join(_TABLES)} equal to the bit"
        )
        return 1 if again or different else 0


def _finished(out: Path) -> dict[Path, int]:
    """Return the metrics of finished trainings with their times of change."""
    return {file: file.stat().st_mtime_ns for file in out.glob("runs/*/*/*/evaluation/metrics.json")}


def _prepare(folder: Path, images: int) -> None:
    from overlay.images import phantoms

    phantoms.write_phantoms(folder / "phantoms", images_per_class=images, seed=0)
    words = ["prepare", str(folder / "phantoms"), "--out", str(folder / "dataset"), "--split.folds", "3"]
    subprocess.run([sys.executable, "-m", "overlay", *words], check=True, stdout=subprocess.DEVNULL)


def _command(folder: Path, out: str, epochs: int) -> list[str]:
    words = ["compare", str(folder / "dataset"), "--out", str(folder / out), "--archs", ",".join(_ARCHS)]
    words += ["--model.weights", "none", "--input.size", "32", "--train.epochs", str(epochs)]
    words += ["--train.batch_size", "8", "--train.precision", "fp32", "--tracking.mode", "disabled"]
    return [sys.executable, "-m", "overlay", *words]


def _equal(folder: Path, name: str) -> bool:
    tables = [pq.read_table(folder / side / f"{name}.parquet") for side in ("undisturbed", "disturbed")]
    same = [column for column in tables[0].column_names if column not in _DIFFERING]
    return bool(
        tables[0].column_names == tables[1].column_names and tables[0].select(same).equals(tables[1].select(same))
    )


if __name__ == "__main__":
    sys.exit(main())
