"""What the schemas of KubeRay do not say about our files."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = ("raycluster.yaml", "rayjob.yaml")


def read(file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the whole document and the part that describes the cluster."""
    document = yaml.safe_load((ROOT / "cluster" / "kubernetes" / file).read_text())
    return document, document["spec"].get("rayClusterSpec", document["spec"])


def pods(cluster: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


@pytest.mark.parametrize("file", FILES)
def test_the_version_of_ray_is_that_of_the_image(file: str) -> None:
    found = re.search(r"^ARG RAY_VERSION=(.+)$", (ROOT / "cluster" / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    assert read(file)[1]["rayVersion"] == found[1]


@pytest.mark.parametrize("file", FILES)
def test_the_cluster_wants_a_token(file: str) -> None:
    assert read(file)[1]["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("file", FILES)
def test_keys_come_from_secrets(file: str) -> None:
    for pod in pods(read(file)[1]):
        for variable in pod["containers"][0]["env"]:
            assert list(variable["valueFrom"]) == ["secretKeyRef"]


@pytest.mark.parametrize("file", FILES)
def test_pods_are_not_restarted_in_place(file: str) -> None:
    assert {pod["restartPolicy"] for pod in pods(read(file)[1])} == {"Never"}


def test_the_name_of_a_job_is_short_enough() -> None:
    assert len(read("rayjob.yaml")[0]["metadata"]["name"]) <= 47


def test_the_job_is_a_request_that_the_command_line_takes() -> None:
    from overlay.cli.parser import parse_arguments
    from overlay.config import Loop, Train

    program, verb, *words = read("rayjob.yaml")[0]["spec"]["entrypoint"].split()
    assert program == "overlay"
    assert parse_arguments(verb, words) == Train(dataset="/shared/dataset", out="/shared/run", train=Loop(workers=2))
