"""Verbs of the command line: the configuration, the usage and the positional arguments of each.

Imports nothing heavy, since `overlay --help` reads it: jsonargparse alone takes more than half of the parser's time.
"""

from overlay.config import Compare, Demo, Evaluate, Export, Predict, Prepare, Submit, Train

Config = Compare | Prepare | Train | Evaluate | Predict | Export | Demo | Submit

VERBS: dict[str, type[Config]] = {
    "prepare": Prepare,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "compare": Compare,
    "export": Export,
    "demo": Demo,
    "submit": Submit,
}
USAGE = {
    "prepare": "SOURCE... --out DATASET",
    "train": "DATASET|FOLDER --out RUN",
    "evaluate": "RUN|MODEL.pth DATASET --out DIR",
    "predict": "MODEL.pth INPUT... --out DIR",
    "compare": "DATASET [MODEL...] --out DIR",
    "export": "MODEL.pth --format safetensors|onnx [--out FILE]",
    "demo": "[--out DIR]",
    "submit": "--address URL [--detach] -- VERB ... | --address URL --attach|--status|--logs|--stop JOB",
}
POSITIONAL = {
    "prepare": ("sources",),
    "train": ("dataset",),
    "evaluate": ("model", "dataset"),
    "predict": ("model", "inputs"),
    "compare": ("dataset", "models"),
    "export": ("model",),
    "demo": (),
    "submit": ("job",),
}
"""verb -> options that are given by their position, in this order"""
