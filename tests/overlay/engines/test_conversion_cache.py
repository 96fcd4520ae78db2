"""Cache of converted models: one conversion for a model, this code and these versions."""

import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest

from overlay.engines import conversion_cache
from overlay.engines.base import OpenVinoModel
from overlay.engines.conversion_cache import cache_folder, cached_conversion
from overlay.errors import DiskFullError
from overlay.models.model_file import ModelCard, ModelFile

CARD = ModelCard("resnet18", ("a", "b"), 32, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), None, "", "", "")
FILE = ModelFile("m.pth", OrderedDict(), CARD, "ab" * 32)


class Converter:
    """Counts conversions; each gives a model with the number of the conversion in it."""

    def __init__(self, size: int = 0) -> None:
        self.calls, self._size = 0, size

    def __call__(self, _: ModelFile) -> OpenVinoModel:
        self.calls += 1
        return OpenVinoModel(f"<net {self.calls}/>".encode(), bytes([self.calls]) + bytes(self._size))


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_model_is_converted_once() -> None:
    convert = Converter()
    first = cached_conversion(FILE, convert)
    assert cached_conversion(replace(FILE, path="elsewhere.pth"), convert) == first
    assert convert.calls == 1
    assert len(list(cache_folder().iterdir())) == 1


def test_other_weights_another_card_code_or_version_is_another_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = Converter()
    cached_conversion(FILE, convert)
    cached_conversion(replace(FILE, sha256="cd" * 32), convert)
    cached_conversion(replace(FILE, card=replace(CARD, size=64)), convert)
    monkeypatch.setattr(conversion_cache, "code_fingerprint", lambda: "other")
    cached_conversion(FILE, convert)
    monkeypatch.setattr(conversion_cache, "version", lambda _: "0")
    cached_conversion(FILE, convert)
    assert convert.calls == 5


def test_a_model_without_a_checksum_is_not_kept() -> None:
    convert = Converter()
    cached_conversion(replace(FILE, sha256=""), convert)
    assert not cache_folder().exists()


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "folder"])
def test_a_damaged_file_is_converted_anew(damage: str) -> None:
    convert = Converter(size=1000)
    cached_conversion(FILE, convert)
    (kept,) = cache_folder().iterdir()
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "folder":
        kept.unlink()
        kept.mkdir()
    else:
        kept.write_bytes({"cut": bytes(content[:500]), "bit": bytes(content), "empty": b""}[damage])
    assert cached_conversion(FILE, convert).xml == b"<net 2/>"
    assert cached_conversion(FILE, convert).xml == (b"<net 3/>" if damage == "folder" else b"<net 2/>")


def test_without_a_folder_that_can_be_written_models_are_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_conversion(FILE, Converter()).xml == b"<net 1/>"


def test_a_full_disk_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise DiskFullError("full")

    monkeypatch.setattr(conversion_cache, "write_atomically", full)
    assert cached_conversion(FILE, Converter()).xml == b"<net 1/>"


def test_those_that_were_not_used_for_longest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = Converter(size=1000)
    files = [replace(FILE, sha256=str(number)) for number in range(4)]
    for number, file in enumerate(files[:3]):
        cached_conversion(file, convert)
        newest = max(cache_folder().iterdir(), key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    cached_conversion(files[0], convert)  # used again: now
    monkeypatch.setattr(conversion_cache, "CACHE_BYTES", 3000)
    cached_conversion(files[3], convert)  # four of more than 1,000 bytes: two go
    assert len(list(cache_folder().iterdir())) == 2
    assert convert.calls == 4
    cached_conversion(files[0], convert)
    cached_conversion(files[3], convert)
    assert convert.calls == 4


@pytest.mark.parametrize("base", ["", "relative/path"])
def test_the_folder_is_in_the_home_where_none_is_set(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", "/some/home")
    assert cache_folder() == Path("/some/home/.cache/overlay/openvino")
