"""Fault injection for `overlay predict`: 5,000 small images and 30 SIGKILLs, compared with an undisturbed run.

    python scripts/fault_injection/predict.py --images 5000 --kills 30 --seed 0
    python scripts/fault_injection/predict.py --images 1000 --kills 10 --here

At random times a SIGKILL ends the driver, the model actor, a decoding worker, or the raylet. A killed command is run
again, unchanged, until it succeeds. "writer" is the driver, killed while it has a temporary file that is not renamed
yet. With --here there is no Ray, and only driver and writer are killed, after some more parts. Prints each kill; exits
with status 1 where a row is missing, duplicated or different.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import psutil
from PIL import Image

from scripts.fault_injection.processes import Command, descendants, end, kill_one, start, wait

_VICTIMS = ("driver", "writer", "actor", "worker", "raylet")
_TITLES = {"actor": "ray::MapWorker", "worker": "ray::"}


def main() -> int:
    """Make images and a model, predict without and with kills, and compare the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part_rows", type=int, default=500)
    parser.add_argument("--pause", type=float, nargs=2, default=(2.0, 12.0), help="seconds of work between two kills")
    parser.add_argument("--here", action="store_true", help="predict in one process; up to 1,000 images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overlay-kills-") as temporary:
        folder = Path(temporary)
        write_noise_images(folder / "images", options.images, options.seed)
        write_random_model(folder / "model.pth")
        began = time.monotonic()
        assert start(_command(folder, "undisturbed", options.part_rows, options.here)).wait() == 0
        print(f"undisturbed: {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        killed, commands = _campaign(folder, options)
        print(f"{sum(killed.values())} kills ({dict(killed)}), {commands} commands, {time.monotonic() - began:.0f} s")
        return _compare(folder, options.images)


def _campaign(folder: Path, options: argparse.Namespace) -> tuple[Counter[str], int]:
    """Run the command until it succeeds, and kill its processes; return kills by kind, and the number of commands."""
    chance = random.Random(options.seed)
    chosen = _VICTIMS[:2] if options.here else _VICTIMS
    victims: Iterator[str] = iter([chosen[number % len(chosen)] for number in range(options.kills)])
    killed: Counter[str] = Counter()
    commands = seen = 0
    victim = next(victims, None)
    while True:
        commands += 1
        driver = start(_command(folder, "disturbed", options.part_rows, options.here))
        while driver.poll() is None:
            # Kill only once work has begun: Ray and torch take seconds to start.
            if victim and _working(driver, folder / "disturbed", seen if options.here else None):
                wait(driver, chance.uniform(*options.pause))
                if driver.poll() is None and _kill(driver, victim, folder / "disturbed", chance):
                    killed[victim] += 1
                    seen = _rows(folder / "disturbed")
                    print(f"  kill {sum(killed.values())}: {victim}, {seen} rows", flush=True)
                    victim = next(victims, None)
            wait(driver, 0.2)
        end(driver)
        if driver.returncode == 0:
            if victim is None:
                return killed, commands
            print(f"  done after {sum(killed.values())} kills; once more, anew", flush=True)
            assert _compare(folder, options.images) == 0
            (folder / "disturbed").rename(folder / f"disturbed-{commands}")
            seen = 0


def _working(driver: Command, out: Path, seen: int | None) -> bool:
    """Whether the model actor runs, or there are more rows than were ``seen`` at the last kill."""
    return bool(_find(driver, "actor")) if seen is None else _rows(out) > seen


def _kill(driver: Command, victim: str, out: Path, chance: random.Random) -> bool:
    """Kill a process; return whether there was one."""
    if victim == "writer":
        deadline = time.monotonic() + 30
        while driver.poll() is None and time.monotonic() < deadline:
            if any(entry.name.endswith(".tmp") for name in ("predictions", ".work") for entry in _scan(out / name)):
                driver.kill()
                return True
            time.sleep(0.0005)
        return False
    if victim == "driver":
        driver.kill()
        return True
    return kill_one(_find(driver, victim), chance)


def _scan(folder: Path) -> list["os.DirEntry[str]"]:
    """List a folder that may not exist."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _find(driver: Command, kind: str) -> list[psutil.Process]:
    """Find the processes of the driver's Ray."""
    if kind == "raylet":
        return descendants(driver, lambda _, name: name == "raylet")
    return descendants(driver, lambda line, _: line.startswith(_TITLES[kind]) and "IDLE" not in line)


def _command(folder: Path, out: str, part_rows: int, here: bool) -> list[str]:
    """Return the command line of a prediction."""
    words = ["predict", str(folder / "model.pth"), str(folder / "images"), "--out", str(folder / out)]
    words += ["--part_rows", str(part_rows), "--precision", "fp32", *([] if here else ["--actors", "1"])]
    return [sys.executable, "-m", "overlay", *words]


def _rows(out: Path) -> int:
    """Return the number of committed rows."""
    parts = list((out / "predictions").glob("part-*.parquet"))
    return int(duckdb.read_parquet([str(part) for part in parts]).count("*").fetchall()[0][0]) if parts else 0


def _compare(folder: Path, images: int) -> int:
    """Return 0 where the disturbed run has each row exactly once and equal to the undisturbed run's, else 1."""
    both = {}
    for name in ("undisturbed", "disturbed"):
        both[name] = duckdb.read_parquet(f"{folder / name}/predictions/*.parquet").order("id").df()
    before, after = both["undisturbed"], both["disturbed"]
    manifest = duckdb.read_parquet(f"{folder}/disturbed/manifest/*.parquet").order("id").df()["id"]
    once = len(after) == after["id"].nunique() == images and (after["id"] == manifest).all()
    texts = ["id", "uri", "status", "error", "label", "model"]
    same = bool(once) and before[texts].equals(after[texts])
    numbers = [name for name in before.columns if name.startswith("prob_")]
    apart = float(np.nanmax(np.abs(before[numbers].to_numpy() - after[numbers].to_numpy()))) if once else float("nan")
    print(
        f"rows {len(after)}, distinct {after['id'].nunique()}, manifest {len(manifest)}; texts equal: {same}; "
        f"probabilities differ by at most {apart:.1e}",
        flush=True,
    )
    return 0 if same and apart < 1e-5 else 1


def write_noise_images(folder: Path, count: int, seed: int) -> None:
    """Write small PNGs of noise, 48 x 48 pixels, of which one in a hundred is truncated."""
    noise = np.random.default_rng(seed)
    for number in range(count):
        file = folder / f"{number // 1000}" / f"{number:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (48, 48, 3), np.uint8)).save(file)
        if number % 100 == 7:
            file.write_bytes(file.read_bytes()[:2000])


def write_random_model(file: Path, size: int = 32) -> None:
    """Write a ResNet-18 model file with random weights, three classes and an input size of ``size`` pixels."""
    import torch

    from overlay.models import model_file
    from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network

    torch.manual_seed(0)
    classes = ("benign", "malignant", "normal")
    card = model_file.ModelCard(
        arch="resnet18",
        classes=classes,
        size=size,
        resize="squash",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        overlay=None,
        dataset="",
        weights="none",
        version="0",
    )
    model_file.save_model_file(file, create_network("resnet18", len(classes)).state_dict(), card)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
