"""The files for Slurm and for Ray's cluster launcher: their syntax, Ray's own checks, and the commands in them."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.commands import commented_lines, parse_line

CLUSTER = Path(__file__).parents[2] / "cluster"
SLURM = CLUSTER / "slurm" / "overlay.sbatch"
LAUNCHER = CLUSTER / "ray-up.yaml"


def test_bash_accepts_the_slurm_script() -> None:
    done = subprocess.run(["bash", "-n", str(SLURM)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_ray_accepts_the_command_of_the_slurm_script() -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

    found = re.search(r"ray symmetric-run \\\n(.*?)\n    -- ", SLURM.read_text(), re.DOTALL)
    assert found is not None
    words = found[1].replace("\\", "").split()
    options = {option for parameter in symmetric_run.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--")] == ["--address", "--min-nodes", "--num-cpus", "--num-gpus"]
    assert options >= {"--address", "--min-nodes"}
    numbers = ["h:1" if before == "--address" else "2" for before in words[::2]]
    given = [word for pair in zip(words[::2], numbers, strict=True) for word in pair]
    assert curate_and_validate_ray_start_args(given) == ["--num-cpus", "2", "--num-gpus", "2"]


def test_the_job_is_warned_before_slurm_kills_it() -> None:
    found = re.search(r"^#SBATCH --signal=B:USR1@(\d+)$", SLURM.read_text(), re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= 60
    assert "trap save_and_requeue USR1" in SLURM.read_text()


def test_ray_accepts_the_file_of_its_launcher() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(LAUNCHER.read_text()))
    validate_config(config)
    types = config["available_node_types"]
    assert {name: (each["resources"], each["min_workers"]) for name, each in types.items()} == {
        "head": ({"CPU": 0}, 0),
        "cpu": ({"CPU": 8}, 0),
        "gpu": ({"CPU": 8, "GPU": 1}, 0),
    }
    starts = [
        line for part in ("head", "worker") for line in config[f"{part}_start_ray_commands"] if "ray start" in line
    ]
    assert all("RAY_AUTH_MODE=token" in line for line in starts)


@pytest.mark.parametrize("file", [SLURM, LAUNCHER], ids=lambda file: file.name)
def test_the_commands_in_the_comments_are_requests_that_the_command_line_takes(file: Path) -> None:
    text = re.sub(r"sbatch .*?overlay\.sbatch", "overlay", file.read_text())
    lines = commented_lines(text)
    assert lines
    for line in lines:
        parse_line(line)
