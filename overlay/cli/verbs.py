"""Verbs of the command line: the configuration, the usage and the positional arguments of each.

Imports nothing heavy, since `overlay --help` reads it: jsonargparse alone takes more than half of the parser's time.
"""

from collections.abc import Iterable

from overlay.config import Demo, Evaluate, Export, Predict, Prepare, Submit, Train

Config = Prepare | Train | Evaluate | Predict | Export | Demo | Submit

VERBS: dict[str, type[Config]] = {
    "prepare": Prepare,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "demo": Demo,
    "submit": Submit,
}
USAGE = {
    "prepare": "SOURCE... --out DATASET",
    "train": "DATASET|FOLDER --out RUN",
    "evaluate": "RUN|MODEL.pth DATASET --out DIR",
    "predict": "MODEL.pth INPUT... --out DIR",
    "export": "MODEL.pth --format safetensors|onnx [--out FILE]",
    "demo": "[--out DIR]",
    "submit": "--address URL -- VERB ...",
}
POSITIONAL = {
    "prepare": ("sources",),
    "train": ("dataset",),
    "evaluate": ("model", "dataset"),
    "predict": ("model", "inputs"),
    "export": ("model",),
    "demo": (),
    "submit": ("job",),
}
"""verb -> options that are given by their position, in this order"""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at the known word that is most like a mistyped one, `; did you mean X?`; empty without one."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""
