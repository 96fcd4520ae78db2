"""Small commands of all verbs, for faults that every verb must survive; what one needs, another makes first."""

import subprocess
import sys
from pathlib import Path

from overlay.images import phantoms

VERB_NAMES = ("prepare", "train", "evaluate", "predict", "compare", "export", "demo")


class VerbCommands:
    """Commands with their inputs in a folder."""

    def __init__(self, folder: Path, images: int = 24) -> None:
        self.folder = folder
        phantoms.write_phantoms(folder / "images", images_per_class=images, seed=0)

    def out(self, verb: str, name: str) -> Path:
        """Return the output of a verb's command, a folder, or a file of export."""
        return self.folder / f"{verb}-{name}{'.safetensors' if verb == 'export' else ''}"

    def words(self, verb: str, name: str, out: Path | None = None) -> list[str]:
        """Return the command line of a verb, whose output gets a name, or is ``out``."""
        small = ["--model.arch", "resnet18", "--model.weights", "none", "--input.size", "32", "--train.precision=fp32"]
        one_epoch = ["--train.epochs", "1", "--train.batch_size", "8"]
        dataset, model = str(self.out("prepare", "undisturbed")), str(self.out("train", "undisturbed"))
        given = {
            "prepare": [str(self.folder / "images"), "--split.folds", "3"],
            "train": [dataset, *small, "--train.epochs", "6", "--train.batch_size", "8"],
            "evaluate": [model, dataset],
            "predict": [model, str(self.folder / "images"), "--actors", "1", "--part_rows", "20"],
            "compare": [dataset, "--archs", "resnet18,mobilenet_v3_small", *small[2:], *one_epoch],
            "export": [model, "--format", "safetensors"],
            "demo": [],
        }[verb]
        return [sys.executable, "-m", "overlay", verb, *given, "--out", str(out or self.out(verb, name))]

    def run(self, verb: str, name: str) -> int:
        """Run a verb's command, and before it those whose output it needs; return its exit status.

        Raises:
            RuntimeError: the undisturbed command failed.
        """
        needed = {"train": ["prepare"], "compare": ["prepare"], "prepare": [], "demo": []}.get(verb, ["train"])
        for other in needed:
            if not self.out(other, "undisturbed").exists():
                self.run(other, "undisturbed")
        done = subprocess.run(self.words(verb, name), capture_output=True, text=True, check=False)
        if done.returncode and name == "undisturbed":
            raise RuntimeError(f"overlay {verb} failed: {done.stderr[-2000:]}")
        return done.returncode
