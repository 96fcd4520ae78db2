import os
import pwd
import tempfile
from pathlib import Path

import pytest

from overlay.cli.environment import complete_environment
from overlay.cli.raw_lines import RawLineFilter
from overlay.errors import RequestError


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("USER", "LOGNAME", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    return tmp_path


@pytest.mark.parametrize("home", ["/", "/nonexistent", "", "relative"])
def test_a_home_that_cannot_be_written_is_replaced_by_a_private_one(
    home: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", home)
    complete_environment()
    complete_environment()
    made = temporary / f"overlay-home-{os.getuid()}"
    assert os.environ["HOME"] == str(made)
    assert made.stat().st_mode & 0o777 == 0o700


def test_credentials_in_a_read_only_home_are_still_found(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = temporary / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws" / "config").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.R_OK and Path(path).exists())
    complete_environment()
    assert os.environ["AWS_CONFIG_FILE"] == str(home / ".aws" / "config")
    assert os.environ["HOME"] != str(home)


def test_a_home_of_ones_own_and_a_name_stay(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(temporary))
    complete_environment()
    assert os.environ["HOME"] == str(temporary)
    assert "USER" not in os.environ


def test_a_number_without_a_name_gets_one(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_name(_: int) -> None:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", no_name)
    complete_environment()
    assert os.environ["USER"] == os.environ["LOGNAME"] == f"uid-{os.getuid()}"


def test_a_folder_that_others_can_enter_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    (temporary / f"overlay-home-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(RequestError, match="is not this user's alone; set HOME"):
        complete_environment()


def test_lines_of_the_core_of_ray_are_left_out() -> None:
    kept = RawLineFilter()
    lines = [
        (b"training: 3 of 5 images\n", True),
        (b"[2026-11-26 06:46:13,123 W 183 183] actor_manager.cc:90: Actor x has constructor arguments in\n", False),
        (b"[2026-11-26 06:46:13,123 E 183 183] core_worker.cc:90: failed\n", False),
        (b"*** StackTrace Information ***\n", False),
        (b"    @ 0x7f  ray::core\n", False),
        (b"\n", False),
        (b"overlay train: stopped\n", True),
        (b"  indented\n", True),
        (b"\x1b[33m[2026-11-26 06:46:13,1 W 1 1] (raylet) x.cc:1: no\n", False),
    ]
    assert [(line, kept.keeps(line)) for line, _ in lines] == lines


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_credentials_in_the_address_of_a_cluster_are_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://user:secret@head:8265")
    with pytest.raises(RequestError, match=f"^{name} has credentials in an address") as refusal:
        complete_environment()
    assert "secret" not in str(refusal.value)
