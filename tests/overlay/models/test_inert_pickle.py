"""Hostile pickles: nothing in them is called, and they take no more memory than their size."""

import pickle
import tracemalloc
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from overlay.models.inert_pickle import Record, RefusedName, load_inert
from overlay.models.plain_values import plain_value
from overlay.models.stored_tensor import Storage, StoredTensor
from overlay.models.torch_file import read_torch_pickles, read_torch_zip


def call(name: str, *arguments: bytes) -> bytes:
    """A pickle that calls a function of this name, such as b'cbuiltins\\nbytearray\\n(I10\\ntR.'."""
    module, _, function = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + b"(" + b"".join(arguments) + b"tR."


def write(content: object, folder: Path, **options: Any) -> Path:  # noqa: ANN401
    torch.save(content, folder / "m.pth", **options)
    return folder / "m.pth"


def peak_mib(load: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        load()
    except pickle.UnpicklingError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak / 2**20


@pytest.mark.parametrize(
    "name",
    [
        *("os.system", "posix.system", "subprocess.Popen", "builtins.eval", "builtins.exec", "builtins.getattr"),
        *(
            "torch.load",
            "torch.hub.load",
            "torch.storage._load_from_bytes",
            "importlib.import_module",
            "runpy.run_path",
        ),
        *("numpy.load", "numpy.core.multiarray.fromfile", "operator.attrgetter", "functools.reduce", "pickle.loads"),
        *("torch._utils._rebuild_sparse_tensor", "torch._tensor._rebuild_from_type_v2", "copyreg._reconstructor"),
        *("torch.nn.modules", "torch.nn.modulesx.Linear", "webbrowser.open", "timeit.timeit"),
    ],
)
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(RefusedName) as error:
        load_inert(call(name, b"X\x01\x00\x00\x00x"))
    assert error.value.name == name


def test_a_constructor_with_arguments_takes_no_memory() -> None:
    huge = b"J" + (2**31 - 1).to_bytes(4, "little")
    for name in (
        *("builtins.bytearray", "torch.nn.modules.linear.Linear", "torch.FloatTensor", "numpy.ndarray"),
        *("numpy.core.multiarray._reconstruct", "torchvision.models.resnet.resnet152", "builtins.range"),
    ):
        found = load_inert(call(name, huge, huge))
        assert isinstance(found, Record)
        assert found.args == (2**31 - 1, 2**31 - 1)
        assert peak_mib(lambda name=name: plain_value(load_inert(call(name, huge, huge)))) < 1  # type: ignore[misc]
    # A number of the memo that is far beyond the objects that there are, and texts that double each time.
    assert peak_mib(lambda: load_inert(b"\x80\x02}r\xff\xff\xff\x7f.")) < 1
    doubling = b"c_codecs\nencode\n(" * 30 + b"X\x01\x00\x00\x00x" + b"X\x03\x00\x00\x00hextR" * 30
    assert peak_mib(lambda: load_inert(b"\x80\x02" + doubling + b".")) < 1


def test_a_tensor_stays_within_its_storage(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "none", torch.float32, 6)
    assert StoredTensor.checked(storage, 0, (2, 3), (3, 1)).shape == (2, 3)
    assert StoredTensor.checked(storage, 5, (1000, 1), (0, 1)).shape == (1000, 1)
    for offset, shape, stride in (
        (1, (2, 3), (3, 1)),
        (0, (2, 3), (4, 1)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), ()),
        (0, (2.0,), (1,)),
        (0, (2**20, 2**20), (0, 0)),
    ):
        with pytest.raises(pickle.UnpicklingError):
            StoredTensor.checked(storage, offset, shape, stride)


def test_a_storage_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    file = write({"a": torch.arange(4.0)}, tmp_path)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    longer = members["m/data.pkl"].replace(b"K\x04t", b"K\x28t").replace(b"K\x04\x85", b"K\x28\x85")
    assert longer != members["m/data.pkl"]
    for name, content, kind in (
        ("m/data.pkl", longer, zipfile.ZIP_STORED),
        ("m/data/0", bytes(1_000_000), zipfile.ZIP_DEFLATED),
        ("m/data.pkl", members["m/data.pkl"], zipfile.ZIP_DEFLATED),
    ):
        with zipfile.ZipFile(file, "w") as archive:
            for each, data in members.items():
                archive.writestr(each, content if each == name else data, kind if each == name else zipfile.ZIP_STORED)
        with pytest.raises(pickle.UnpicklingError):
            read_torch_zip(file)


@pytest.mark.parametrize("old", [False, True])
def test_tensors_come_back_bit_for_bit(old: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    kinds = (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
    tensors = {
        "base": base,
        "view": base[1:3, 2:4],
        "turned": base.T,
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(3)),
        **{str(kind): torch.tensor([0, 1, 3]).to(kind) for kind in kinds},
    }
    content = OrderedDict(tensors)
    content.note = {"of": "a file"}  # type: ignore[attr-defined]
    file = write(content, tmp_path, _use_new_zipfile_serialization=not old)
    found: Any = (read_torch_pickles if old else read_torch_zip)(file)
    assert list(found) == list(tensors)
    assert found.note == {"of": "a file"}
    for name, tensor in tensors.items():
        read = found[name].read()
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read, tensor), name
    assert found["view"].storage is found["base"].storage


def test_containers_and_numpy_s_values_are_let_through(tmp_path: Path) -> None:
    content = {
        "scalar": np.float64(0.25),
        "whole": np.int16(-7),
        "text": np.str_("abc"),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "names": np.array(["a", "bc"]),
        "objects": np.array(["a", 3], dtype=object),
        "options": Namespace(lr=0.1, names=["a"]),
        "counts": Counter("aab"),
        "default": defaultdict(list, {"a": [1]}),
        "tensor": torch.tensor([1, 2]),
        "size": torch.Size([1, 2]),
        "path": tmp_path,
        "type": torch.float32,
        "criterion": nn.CrossEntropyLoss(weight=torch.ones(3)),
        "optimizer": torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict(),
        "set": {1, 2},
        "plain": [1, 2.5, "x", None, True, (1, 2), b"bytes", 2**70],
    }
    found: Any = read_torch_zip(write(content, tmp_path))
    values = {name: plain_value(value) for name, value in found.items()}
    assert (values["scalar"], values["whole"], values["text"]) == (0.25, -7, "abc")
    assert (values["array"], values["names"], values["objects"]) == ([[0, 1, 2], [3, 4, 5]], ["a", "bc"], ["a", 3])
    assert values["options"] == {"lr": 0.1, "names": ["a"]}
    assert (values["counts"], values["default"], values["tensor"]) == ({"a": 2, "b": 1}, {"a": [1]}, [1, 2])
    assert found["size"] == (1, 2)
    assert found["plain"][:6] == [1, 2.5, "x", None, True, (1, 2)]
    assert found["criterion"].kind == "CrossEntropyLoss"


def test_classes_can_t_be_given_other_methods() -> None:
    """A state with slots is set attribute by attribute, on a class too."""
    for name in ("torch._utils._rebuild_tensor_v2", "_codecs.encode", "torch.FloatStorage"):
        module, _, function = name.rpartition(".")
        state = b"N}X\x08\x00\x00\x00__call__K\x01s\x86b."
        with pytest.raises(Exception, match=r".") as error:
            load_inert(f"\x80\x02c{module}\n{function}\n".encode("latin1") + state)
        assert isinstance(error.value, pickle.UnpicklingError | AttributeError | TypeError), name
    assert load_inert(pickle.dumps(OrderedDict(a=1), protocol=2)) == {"a": 1}
