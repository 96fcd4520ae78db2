"""Fine-tuning and batch inference for mask-overlaid medical images; nothing in this package imports Ray.

from overlay import load_model

load_model("run/Resnet_fineTuning.pth").predict(["scan.png"])[0].label
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from overlay.config import EngineKind, Legacy, Precision
    from overlay.prediction.predictor import Predictor


__version__ = "0.1.0"


def load_model(
    path: "str | Path",
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    engine: "EngineKind" = "auto",
    precision: "Precision" = "auto",
    batch_size: int = 1,
    legacy: "Legacy | None" = None,
) -> "Predictor":
    """Load a model for a service or a notebook: a model file, or the folder of a run.

    Its probabilities are those of ``overlay predict`` with the same engine and precision, to 1e-6. A larger
    ``batch_size`` makes many images faster and a single one slower. ``legacy`` completes files of other programs.

    Raises:
        RequestError: there is no such model, or the engine doesn't fit the device.
    """
    from overlay.models.model_file import load_model_file  # torch takes seconds to import
    from overlay.prediction.predictor import Predictor

    return Predictor(load_model_file(path, legacy), device, engine, precision, batch_size)
