"""Restricted unpickling: no class or function that a pickle names is ever called; each becomes an inert `Record`.

    load_inert(data, persistent)  # data: bytes of one pickle

Five names stand for something else than a `Record`, all of them of this module or of Python's own types: OrderedDict,
the two functions that rebuild a tensor or a parameter of ``torch.save`` (`StoredTensor`, which reads nothing yet),
``torch.Size`` (a tuple), and ``_codecs.encode`` (Latin-1 only, for the bytes of numpy's scalars). torch's own
``weights_only`` unpickler is not used, since it runs the constructors of the classes that it allows, and of
``bytearray`` and ``torch.Tensor``, with arguments from the file.
"""

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, ClassVar

from overlay.models.stored_tensor import Storage, StorageType, StoredTensor

# Parts of networks, containers and values; all of them become records, so what a name does is of no importance.
_KNOWN = re.compile(
    r"""torch\.nn\.(?:modules|parallel|functional|utils)\..+ | torch\.nn\.Parameter | torch\.nn\.parameter\.\w+
    | torch\._C\._nn\.\w+ | torch\.optim\..+ | torch\.(?:cuda\.)?amp\..+ | torch\.(?:device|\w+Tensor|Generator)
    | torch\.(?:float|bfloat|int|uint|complex)\d+ | torch\.bool | torchvision\.(?:models|ops|transforms)\..+
    | numpy\.(?:_?core\.(?:multiarray|numeric|_internal)\.)?(?:scalar|_reconstruct|_frombuffer|ndarray|dtype)
    | numpy\.dtypes\.\w+ | numpy\.(?:bool_?|str_|bytes_|u?int\d+|float\d+)
    | argparse\.Namespace | types\.SimpleNamespace | collections\.(?:defaultdict|Counter|deque|ChainMap)
    | pathlib\.\w*Path | pathlib\._local\.\w*Path | datetime\.\w+ | decimal\.Decimal | fractions\.Fraction | uuid\.UUID
    | functools\.partial | typing\.\w+
    | builtins\.(?:set|frozenset|dict|list|tuple|int|float|complex|str|bytes|bytearray|bool|slice|range|object)
    | (?:pytorch_)?lightning(?:_fabric)?\..*\.AttributeDict | omegaconf\..+ | yacs\.config\.CfgNode
    | easydict\.EasyDict | munch\.Munch | addict\.addict\.Dict | sklearn\.preprocessing\._label\.LabelEncoder""",
    re.VERBOSE,
)
_STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
# They make objects in ways that torch.save never uses, or ask for memory of a size that is in the file.
_REFUSED_OPCODES = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID"}
_PYTHON_2 = {"__builtin__": "builtins"}  # protocol 2, which torch.save writes, has the names of Python 2
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}


class RefusedName(pickle.UnpicklingError):
    """Pickle that names a class or function which is no part of a network, nor a container; ``name`` is it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Record:
    """Inert stand-in for an object of a pickle: its class's name, and what it would have been made of."""

    qualified: ClassVar[str] = ""
    """module and name of the class or function"""
    args: tuple[Any, ...]
    """arguments of the constructor or function"""
    state: Any
    """what ``__setstate__`` would have taken; mostly the object's dictionary"""
    items: list[Any]
    """elements of a list, or pairs of a dictionary, where the object is one"""

    def __new__(cls, *args: object, **_: object) -> "Record":  # noqa: D102
        made = super().__new__(cls)
        made.args, made.state, made.items = args, None, []
        return made

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items.append((key, value))

    def append(self, item: object) -> None:
        """Add an element of a list."""
        self.items.append(item)

    def add(self, item: object) -> None:
        """Add an element of a set."""
        self.items.append(item)

    @property
    def kind(self) -> str:
        """Name of the class, without its module."""
        return self.qualified.rpartition(".")[2]

    @property
    def attributes(self) -> dict[Any, Any]:
        """Dictionary of the object; empty where it has none."""
        state = self.state[0] if isinstance(self.state, tuple) and len(self.state) == 2 else self.state
        return state if isinstance(state, dict) else {}


def load_inert(data: bytes, persistent: Callable[[Any], object] | None = None) -> Any:  # noqa: ANN401
    """Load one pickle; ``persistent`` gives the object of a persistent id.

    Memory is bounded by a small multiple of the data.

    Raises:
        RefusedName: it names a class or function that is not known.
        Exception: it is damaged, of whatever type the unpickler meets.
    """
    for position, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        # An unpickler makes a list of as many places as the largest number of a PUT.
        if opcode.name in _REFUSED_OPCODES or (opcode.name in _PUTS and int(argument or 0) > position):
            raise pickle.UnpicklingError(f"opcode {opcode.name}")
    return _Unpickler(io.BytesIO(data), persistent).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, persistent: Callable[[Any], object] | None) -> None:
        super().__init__(data, encoding="latin1")
        self._persistent = persistent
        self._classes: dict[str, object] = {}

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401
        full = f"{_PYTHON_2.get(module, module)}.{name}"
        if full not in self._classes:
            self._classes[full] = _stand_in(full)
        return self._classes[full]

    def persistent_load(self, pid: Any) -> Any:  # noqa: ANN401
        if self._persistent is None:
            raise pickle.UnpicklingError("persistent id")
        return self._persistent(pid)


class _Function:
    """Function of this module; its slot keeps a pickle from setting other attributes."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *args: object) -> object:
        return self._function(*args)

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("state of a function")


def _rebuild_tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("tensor without a storage")
    return StoredTensor.checked(storage, offset, size, stride)


def _rebuild_parameter(data: object, *_: object) -> object:
    return data


def _encode(text: object, encoding: object) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("encoding")
    return text.encode("latin1")


def _size(values: object = ()) -> tuple[object, ...]:
    return tuple(values) if isinstance(values, tuple | list) else ()


_FUNCTIONS: dict[str, Callable[..., object]] = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "_codecs.encode": _encode,
    "torch.Size": _size,
}


def _stand_in(full: str) -> object:
    if full == "collections.OrderedDict":
        return OrderedDict
    if full in _FUNCTIONS:
        return _Function(_FUNCTIONS[full])
    if (found := _STORAGE.fullmatch(full)) and (storage := StorageType.named(found[1])):
        return storage
    if not _KNOWN.fullmatch(full):
        raise RefusedName(full)
    return type("Record", (Record,), {"qualified": full})
