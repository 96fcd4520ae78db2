"""One dataset and one trained model for all tests of the jobs that come after them."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from overlay.config import Input, Loop, Model, Prepare, Tracking, Train
from overlay.dataset.prepared import PreparedDataset


@dataclass(frozen=True)
class Trained:
    folder: Path
    dataset: PreparedDataset
    config: Train


@pytest.fixture(scope="session")
def dataset(ray_session: None, phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """24 images to train on, 6 for validation, 6 for the test; not to be written to."""
    from pipelines import prepare

    return prepare.run(Prepare(sources=[str(phantoms)], out=str(tmp_path_factory.mktemp("prepared") / "dataset")))


@pytest.fixture(scope="session")
def trained(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run of two workers over two epochs, tracked offline; not to be written to."""
    from pipelines import train

    folder = tmp_path_factory.mktemp("trained") / "run"
    config = Train(
        dataset=dataset.path,
        out=str(folder),
        input=Input(size=32),
        model=Model(arch="resnet18", weights="none"),
        train=Loop(epochs=2, batch_size=8, workers=2, precision="fp32"),
        tracking=Tracking(mode="offline"),
    )
    train.run(config)
    return Trained(folder, dataset, config)
