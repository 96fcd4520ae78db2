"""Files that are given in place of a file of torch.save, and what is said of them."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from overlay.errors import RequestError
from overlay.models import model_file
from overlay.models.pretrained import load_pretrained

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n"


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"{}")
    return stream.getvalue()


def tarred(names: tuple[str, ...]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), stream)  # type: ignore[no-untyped-call]
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    file = tmp_path / "m.pth"
    for content, said in (
        (b"", "is empty; "),
        (POINTER, f"is a git-LFS pointer of {len(POINTER)} bytes, not the file that it stands for; fetch that with "),
        (b"\n<!DOCTYPE html><title>Sign in", "is a web page, such as one that asks to log in"),
        (b"\xef\xbb\xbf<html>", "is a web page, "),
        (scripted(), "is a TorchScript archive, whose code would have to be run; "),
        (tarred(("sys_info", "pickle", "tensors", "storages")), "is a tar archive as torch before 0.2 wrote it; "),
        (tarred(("weights/a.pth",)), "is a tar archive with weights/a.pth; unpack it"),
        (zipped("model.weights.h5"), "is a zip archive with model.weights.h5, not one of torch.save; unpack it"),
        (gzip.compress(b"x"), "is compressed by gzip; unpack it first"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "is an HDF5 file, as Keras writes them; "),
        (json.dumps({"a": 1}).encode(), "is JSON text; "),
        (pickle.dumps({"a": 1}, protocol=2), "holds no state_dict, or a damaged one; "),
    ):
        file.write_bytes(content)
        for load in (lambda: model_file.load_model_file(file), lambda: load_pretrained("resnet18", str(file))):
            with pytest.raises(RequestError) as error:
                load()
            assert str(error.value).startswith(f"{file} {said}")
            assert "\n" not in str(error.value)
