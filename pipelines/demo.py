"""End-to-end demo on phantoms: generate a small dataset, prepare, train, evaluate, predict.

overlay demo
overlay demo --out somewhere --seed 1
"""

from pathlib import Path

from cluster import session
from overlay.config import (
    Augment,
    Demo,
    EarlyStopping,
    Input,
    Loop,
    Model,
    Optimizer,
    Predict,
    Prepare,
    Tracking,
    Train,
)
from overlay.errors import RequestError
from overlay.images import phantoms
from overlay.storage.folder_lock import FolderLock
from overlay.storage.path import StoragePath
from pipelines import predict, prepare, train
from pipelines.runtime.command_log import log_into

DEMO_IMAGES_PER_CLASS = {"benign": 100, "malignant": 80, "normal": 60}


def run(config: Demo) -> None:
    """Run all stages into ``config.out``; a second run resumes the first.

    Raises:
        RequestError: the folder holds something else, or a demo with another seed.
    """
    with FolderLock(StoragePath.of(config.out), "demo") as lock:
        lock.take()
        _demonstrate(config)


def _demonstrate(config: Demo) -> None:
    out = Path(StoragePath.of(config.out).text)
    images, dataset, trained, predictions = (out / name for name in ("phantoms", "dataset", "run", "predictions"))
    seed = out / f"seed-{config.seed}"
    if not seed.exists() and StoragePath.of(out).contents():
        raise RequestError(
            f"--out {config.out} holds something else, or a demo with another seed; choose another folder"
        )
    print(f"1/4  phantoms, {sum(DEMO_IMAGES_PER_CLASS.values())} images with their masks: {images}")
    session.connect()
    seed.touch()
    log_into(out)
    phantoms.write_phantoms(images, images_per_class=DEMO_IMAGES_PER_CLASS, seed=config.seed)
    print("\n2/4  prepare")
    prepare.run(Prepare(sources=[str(images)], out=str(dataset)))
    print("\n3/4  train ResNet101 from random weights at 64 pixels, and evaluate it on the test split")
    train.run(
        Train(
            dataset=str(dataset),
            out=str(trained),
            input=Input(size=64),
            augment=Augment(rotation=10, zoom=0.1),
            model=Model(weights="none"),
            optimizer=Optimizer(lr=1e-3),
            early_stopping=EarlyStopping(patience=6),
            train=Loop(epochs=24, batch_size=16, seed=config.seed),
            tracking=Tracking(mode="disabled"),
        )
    )
    print("\n4/4  predict the class of every phantom, from its files")
    predict.run(Predict(model=str(trained), inputs=[str(images)], out=str(predictions)))
    print(
        f"""
model:        {trained / "Resnet_fineTuning.pth"}
curves:       {trained / "curves.png"}
report:       {trained / "evaluation" / "report.html"}
predictions:  {predictions / "predictions"}

Now your own images, in one folder a class, with or without masks:
  overlay train FOLDER --out my-run"""
    )
