"""Prediction over several nodes, which are raylets of this machine: one is killed, or one joins, in the middle."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import psutil
import pytest

from overlay.config import Predict
from pipelines import predict
from scripts.fault_injection.predict import write_noise_images, write_random_model
from tests.pipelines.test_nodes import begin, cluster, wait_until

pytestmark = [pytest.mark.nodes, pytest.mark.slow]

IMAGES = 1_000
"""the most that the undisturbed prediction classifies without Ray"""
BATCH = 16


@pytest.fixture(scope="module")
def request_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Predict]:
    """Returns the prediction of the same images into a folder of a name."""
    folder = tmp_path_factory.mktemp("prediction")
    write_noise_images(folder / "images", IMAGES, seed=0)
    write_random_model(folder / "model.pth", size=384)  # slow enough that a node which joins is at work before the end

    def request(name: str) -> Predict:
        inputs = [str(folder / "images")]
        return Predict(
            str(folder / "model.pth"), inputs, str(folder / name), part_rows=BATCH, batch_size=BATCH, precision="fp32"
        )

    return request


@pytest.fixture(scope="module")
def expected(request_for: Callable[[str], Predict]) -> pd.DataFrame:
    """The rows of a prediction in one process."""
    config = request_for("undisturbed")
    predict.run(config)
    return rows(config)


def rows(config: Predict) -> pd.DataFrame:
    frame: pd.DataFrame = duckdb.read_parquet(f"{config.out}/predictions/*.parquet").order("id").df()
    return frame


def parts(config: Predict) -> int:
    return len(list(Path(config.out, "predictions").glob("part-*.parquet")))


def assert_exact(config: Predict, expected: pd.DataFrame) -> None:
    found = rows(config)
    texts = ["id", "uri", "status", "error", "label", "model"]
    assert found[texts].equals(expected[texts])
    numbers = [name for name in expected.columns if name.startswith("prob_")]
    np.testing.assert_allclose(found[numbers], expected[numbers], atol=1e-5)


def computes(node: Any) -> bool:  # noqa: ANN401
    """Whether a process of a node, which holds the model, is at work on a batch: Ray puts that into its title."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    titles = []
    for process in raylet.children(recursive=True):
        with suppress(psutil.Error):
            titles.append(" ".join(process.cmdline()))
    return any(title.startswith("ray::MapWorker") and ").submit" in title for title in titles)


@pytest.mark.parametrize("cpus", [(1, 1), (1, 1, 1, 1), (2, 2)])
def test_a_node_is_lost_in_the_middle(
    cpus: tuple[int, ...],
    request_for: Callable[[str], Predict],
    expected: pd.DataFrame,
    tmp_path: Path,
) -> None:
    log, config = tmp_path / "log", request_for(f"lost-{len(cpus)}x{cpus[0]}")
    with cluster(head_cpus=cpus[0]) as nodes:
        lost = [nodes.add_node(num_cpus=each) for each in cpus[1:]][-1]
        driver = begin(config, nodes.address, log)
        wait_until(lambda: parts(config) > 0, driver, log)
        nodes.remove_node(lost, allow_graceful=False)
        seen, began = parts(config), time.monotonic()
        wait_until(lambda: parts(config) > seen, driver, log)
        print(f"{len(cpus)} nodes of {cpus[0]} CPUs, one killed: the next rows after {time.monotonic() - began:.0f} s")
        assert driver.wait(timeout=600) == 0, log.read_text()
    assert f"processes that hold the model: {len(cpus) - 1}, before {len(cpus)}" in log.read_text()
    assert_exact(config, expected)


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_node_joins_in_the_middle(
    cpus: int,
    request_for: Callable[[str], Predict],
    expected: pd.DataFrame,
    tmp_path: Path,
) -> None:
    log, config = tmp_path / "log", request_for(f"joined-{cpus}")
    with cluster(head_cpus=cpus) as nodes:
        driver = begin(config, nodes.address, log)
        wait_until(lambda: parts(config) > 0, driver, log)
        came, began = nodes.add_node(num_cpus=cpus), time.monotonic()
        wait_until(lambda: "processes that hold the model: 2, before 1" in log.read_text(), driver, log)
        wait_until(lambda: computes(came), driver, log)
        print(f"a node of {cpus} CPUs joined: it computed after {time.monotonic() - began:.0f} s")
        assert driver.wait(timeout=600) == 0, log.read_text()
    assert_exact(config, expected)
