"""Baselines of batch inference: timm and Daft on the same images, each in a process of its own.

    python scripts/benchmarks/baselines.py timm IMAGES MODEL BATCH

timm: the steps of timm's inference.py with --model-dtype bfloat16 --channels-last and a CSV, by timm's functions, since
its package has no scripts. daft: Daft's documented pipeline, with download, decode and resize as expressions and the
network in a class. Neither is a dependency: ``uv run --with timm --with daft python scripts/benchmarks/predict.py``.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib


def timm(images: Path, model: Path, batch: int) -> None:
    """Classify as timm's inference.py does."""
    import pandas as pd
    import torch

    data, models = import_module("timm.data"), import_module("timm.models")
    network = models.create_model("resnet101", num_classes=3, checkpoint_path=str(model))
    config = data.resolve_data_config({}, model=network, use_test_size=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device=device, dtype=torch.bfloat16, memory_format=torch.channels_last).eval()
    loader = data.create_loader(
        data.create_dataset(name="", root=str(images), split="validation"),
        batch_size=batch,
        use_prefetcher=True,
        num_workers=joblib.cpu_count(),
        device=torch.device(device),
        img_dtype=torch.bfloat16,
        **config,
    )
    confidences, indices = [], []
    with torch.inference_mode():
        for pixels, _ in loader:
            confidence, index = network(pixels).softmax(-1).topk(1)
            confidences += confidence.float().cpu().squeeze(1).tolist()
            indices += index.cpu().squeeze(1).tolist()
    names = loader.dataset.filenames(basename=True)
    pd.DataFrame({"filename": names, "index": indices, "prob": confidences}).to_csv(images.parent / "timm.csv")
    assert len(names) == len(list(images.iterdir())), names


def daft(images: Path, model: Path, batch: int) -> None:
    """Classify with Daft, in fp32, and write Parquet."""
    import numpy as np
    import torch

    from overlay.models import model_file as files

    package: Any = import_module("daft")
    functions: Any = import_module("daft.functions")

    class Classify:
        """Network in a process of its own."""

        def __init__(self, file: str) -> None:
            self._device = "cuda" if torch.cuda.is_available() else "cpu"
            self._network = files.build_network(files.load_model_file(file)).to(self._device)

        @package.method.batch(return_dtype=package.DataType.int64(), batch_size=batch)  # type: ignore[untyped-decorator]
        def label(self, pixels: Any) -> list[int]:  # noqa: ANN401
            """Classify a batch."""
            images = np.stack(pixels.to_pylist()).transpose(0, 3, 1, 2)
            with torch.inference_mode():
                logits = self._network(torch.from_numpy(images).to(self._device).float().div(255))
            labels: list[int] = logits.argmax(dim=1).tolist()
            return labels

    classify = package.cls(Classify, max_concurrency=1, gpus=int(torch.cuda.is_available()))(str(model))
    frame = package.from_glob_path(f"{images}/*")
    decoded = functions.decode_image(functions.download(frame["path"]), mode="RGB")
    frame = frame.with_column("pixels", functions.resize(decoded, 224, 224))
    frame = frame.with_column("label", classify.label(frame["pixels"])).select("path", "label")
    written = frame.write_parquet(str(images.parent / "daft"))
    assert len(written) >= 1


if __name__ == "__main__":
    {"timm": timm, "daft": daft}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
