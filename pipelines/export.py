"""Model export to safetensors or ONNX; needs no Ray.

overlay export run --format safetensors
overlay export run/Resnet_fineTuning.pth --format onnx --out model.onnx
"""

from pathlib import PurePosixPath

from overlay.config import Export
from overlay.engines import export
from overlay.errors import RequestError, faults_end_the_work
from overlay.models import model_file
from overlay.models.training_hashes import write_beside
from overlay.storage.atomic import write_atomically
from overlay.storage.folder_lock import FileLock
from overlay.storage.path import StoragePath

_WRITERS = {"safetensors": export.export_safetensors, "onnx": export.export_onnx}


@faults_end_the_work()
def run(config: Export) -> None:
    """Export into ``config.out``.

    Raises:
        RequestError: the request was wrong; nothing was written.
        WorkError: the export failed, or its probabilities differ from the model's; nothing was written.
    """
    loaded = model_file.load_model_file(config.model, config.legacy)
    model = StoragePath.of(loaded.path)
    out = StoragePath.of(config.out or model.parent / f"{PurePosixPath(model.name).stem}.{config.format}")
    if not out.name.endswith(f".{config.format}"):
        raise RequestError(f"--out {out} doesn't end in .{config.format}, by which others know the format; name it so")
    with FileLock(out, "export") as lock:
        lock.take()
        _export(config, loaded, out)


def _export(config: Export, loaded: model_file.ModelFile, out: StoragePath) -> None:
    if out.exists():
        raise RequestError(f"--out {out} is there already; name another file, or delete it")
    with write_atomically(out) as temporary:
        difference = _WRITERS[config.format](loaded, temporary)
    if config.format == "safetensors" and loaded.hashes is not None and not loaded.hashes.record.inside:
        write_beside(out, loaded.hashes)
    print(f"{out}: probabilities differ by at most {difference:.1e} from the model's")
