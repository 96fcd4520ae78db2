"""Two commands at once on one folder: each verb against itself, and prepare against train.

    python scripts/fault_injection/same_folder.py --times 5
    python scripts/fault_injection/same_folder.py --times 5 --pairs predict prepare/train

Both commands start at the same moment. One must work and end with status 0, with the rows, weights and numbers of an
undisturbed command; the other must be refused with status 2, in one line that names the process, or, where it came only
after the first one's end, do nothing with status 0. Prints a line for each pair; exits with status 1 after a wrong one.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from scripts.fault_injection.predict import write_noise_images, write_random_model

_SMALL = ["--model.weights", "none", "--input.size", "32", "--train.batch_size", "8", "--train.precision", "fp32"]
_SMALL += ["--train.epochs", "2", "--tracking.mode", "disabled"]
_PAIRS = ("prepare", "predict", "train", "evaluate", "export", "compare", "demo", "prepare/train")


def main() -> int:
    """Make images, a dataset and models, and run each pair of commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--images", type=int, default=12, help="images of each class of the dataset")
    parser.add_argument("--pairs", nargs="+", choices=_PAIRS, default=[pair for pair in _PAIRS if pair != "demo"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overlay-pairs-") as temporary:
        folder = Path(temporary)
        _make_inputs(folder)
        if set(options.pairs) - {"predict", "export"}:
            _make_dataset(folder, options.images)
        wrong = 0
        for pair in options.pairs:
            verbs = pair.split("/") * 2
            expected = {verb: _undisturbed(folder, verb) for verb in set(verbs)}
            for number in range(options.times):
                found = _run_pair(folder, verbs[:2], folder / f"{pair.replace('/', '-')}-{number}", expected)
                wrong += found.startswith("WRONG")
                print(f"{pair} {number + 1}: {found}", flush=True)
        return 1 if wrong else 0


def _make_inputs(folder: Path) -> None:
    """Write images of noise, and two models."""
    write_noise_images(folder / "noise", 600, seed=0)
    for name in ("model", "other"):
        write_random_model(folder / f"{name}.pth")
    changed = torch.load(folder / "other.pth")
    from overlay.models import model_file

    card = model_file.load_model_file(folder / "other.pth").card
    model_file.save_model_file(folder / "other.pth", {name: value * 1.01 for name, value in changed.items()}, card)  # type: ignore[arg-type]


def _make_dataset(folder: Path, images: int) -> None:
    """Prepare a dataset of phantoms."""
    from overlay.images import phantoms

    phantoms.write_phantoms(folder / "phantoms", images_per_class=images, seed=0)
    words = ["prepare", str(folder / "phantoms"), "--out", str(folder / "dataset")]
    subprocess.run([sys.executable, "-m", "overlay", *words], check=True, stdout=subprocess.DEVNULL)


def _words(folder: Path, verb: str, out: Path) -> list[str]:
    """Return the command line of a verb that writes to ``out``."""
    dataset, model, other = (str(folder / name) for name in ("dataset", "model.pth", "other.pth"))
    words = {
        "prepare": [str(folder / "phantoms")],
        "train": [dataset, *_SMALL, "--model.arch", "resnet18"],
        "evaluate": [model, dataset],
        "predict": [model, str(folder / "noise"), "--precision", "fp32", "--part_rows", "50"],
        "export": [model, "--format", "onnx"],
        "compare": [dataset, model, other],
        "demo": [],
    }[verb]
    file = out.with_suffix(".onnx") if verb == "export" else out
    return [sys.executable, "-m", "overlay", verb, *words, "--out", str(file)]


def _undisturbed(folder: Path, verb: str) -> str:
    out = folder / f"undisturbed-{verb}"
    if not out.exists():
        subprocess.run(_words(folder, verb, out), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return _RESULTS[verb](out)


def _run_pair(folder: Path, verbs: list[str], out: Path, expected: dict[str, str]) -> str:
    """Run two commands at once; return what happened, which begins with WRONG where it should not have."""
    began = time.monotonic()
    commands = [
        subprocess.Popen(_words(folder, verb, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for verb in verbs
    ]
    told = [command.communicate() for command in commands]
    seconds = f"{time.monotonic() - began:.0f} s"
    statuses = [command.returncode for command in commands]
    if 0 not in statuses:
        return f"WRONG: statuses {statuses}: {[error[-300:] for _, error in told]}"
    worked = statuses.index(0)
    other = 1 - worked
    last = (told[other][1].strip().splitlines() or [""])[-1]
    if statuses[other] == 2 and ("is in use by overlay" in last or verbs[0] != verbs[1] or "export" in verbs):
        outcome = f"one works, one is refused: {last}"
    elif statuses == [0, 0] and any("nothing to do" in text for text, _ in told):
        outcome = "one works, one comes after it and has nothing to do"
    else:
        return f"WRONG: statuses {statuses}: {last}"
    if _RESULTS[verbs[worked]](out) != expected[verbs[worked]]:
        return f"WRONG: the result differs from an undisturbed one ({outcome})"
    left = [str(lock) for lock in out.parent.rglob(".overlay-lock*") if out.name in str(lock)]
    return f"WRONG: left behind {left}" if left else f"{outcome} ({seconds})"


def _digest_of_tables(files: list[Path], without: tuple[str, ...] = ()) -> str:
    """Return a hash of the rows of Parquet files, in the order of their ids; duplicates would change it."""
    table = pa.concat_tables([pq.read_table(file) for file in files]).sort_by("id")
    return hashlib.sha256(repr(table.drop_columns(list(without)).to_pylist()).encode()).hexdigest()


def _of_training(out: Path) -> str:
    state = torch.load(out / "Resnet_fineTuning.pth")
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values())).hexdigest()


def _of_evaluation(out: Path) -> str:
    return str(json.loads((out / "metrics.json").read_text())["accuracy"])


_RESULTS: dict[str, Callable[[Path], str]] = {
    "prepare": lambda out: str(json.loads((out / "dataset.json").read_text())["fingerprint"]),
    "train": _of_training,
    "evaluate": _of_evaluation,
    "predict": lambda out: _digest_of_tables(sorted((out / "predictions").glob("part-*.parquet"))),
    "export": lambda out: str(out.with_suffix(".onnx").stat().st_size > 0),
    "compare": lambda out: str(json.loads((out / "compare.json").read_text())["finished"]),
    "demo": lambda out: _of_training(out / "run"),
}
"""verb -> result of a finished command, as a text that can be compared"""


if __name__ == "__main__":
    sys.exit(main())
