"""Plain Python values of what a model file holds: numpy's scalars and arrays, containers, namespaces, small tensors."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from overlay.models.inert_pickle import Record
from overlay.models.stored_tensor import StoredTensor

_MOST_ELEMENTS = 100_000
_CONTAINERS = {"AttributeDict", "CfgNode", "EasyDict", "Munch", "Dict", "dict", "defaultdict", "Counter"}


def plain_value(value: Any) -> Any:  # noqa: ANN401
    """Return a value as numbers, text, lists and dictionaries where it is one; else the value itself.

    Tensors and arrays of more than 100,000 elements stay what they are.
    """
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, StoredTensor | Tensor):
        small = math.prod(value.shape) <= _MOST_ELEMENTS
        return (value.read() if isinstance(value, StoredTensor) else value).tolist() if small else value
    if not isinstance(value, Record):
        return value
    if value.kind == "scalar":
        return _scalar(value)
    if value.kind == "_reconstruct":
        return _array(value)
    if value.kind in _CONTAINERS:
        start: dict[Any, Any] = next((dict(arg) for arg in value.args if isinstance(arg, Mapping)), {})
        return start | value.attributes | dict(pair for pair in value.items if isinstance(pair, tuple))
    if value.kind == "DictConfig":
        content = value.attributes.get("_content")
        return content if isinstance(content, dict) else value
    if value.kind == "ListConfig":
        content = value.attributes.get("_content")
        return [plain_value(item) for item in content] if isinstance(content, list) else value
    if value.qualified.startswith("omegaconf.nodes."):
        return value.attributes.get("_val", value)
    if value.kind in ("list", "tuple", "deque"):
        return [*next((arg for arg in value.args if isinstance(arg, list | tuple)), ()), *value.items]
    if value.kind in ("Namespace", "SimpleNamespace", "LabelEncoder"):
        return value.attributes
    return value


def _dtype(record: object) -> "np.dtype[Any] | None":
    """Return the numpy type that a record of ``numpy.dtype`` stands for; None for structures and objects."""
    if not isinstance(record, Record) or record.kind != "dtype" or not record.args:
        return None
    state = record.state if isinstance(record.state, tuple) else (3, "=")
    order = state[1] if len(state) > 1 and state[1] in ("<", ">") else ""
    code = plain_value(record.args[0])
    try:
        found = np.dtype(f"{order}{code}")
    except (TypeError, ValueError):
        return None
    return None if found.hasobject or found.itemsize > _MOST_ELEMENTS else found


def _scalar(record: Record) -> Any:  # noqa: ANN401
    kind, data = (*record.args, None, None)[:2]
    dtype = _dtype(kind)
    if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
        return record
    return np.frombuffer(data, dtype)[0].item()


def _array(record: Record) -> Any:  # noqa: ANN401
    """Return an array as a list of its elements in the order of C; arrays of Fortran's order stay records."""
    if not isinstance(record.state, tuple) or len(record.state) != 5:
        return record
    _, shape, kind, fortran, data = record.state
    if isinstance(data, list):  # an array of objects
        return [plain_value(item) for item in data]
    dtype = _dtype(kind)
    if dtype is None or not isinstance(data, bytes) or len(data) > _MOST_ELEMENTS * dtype.itemsize:
        return record
    whole = isinstance(shape, tuple) and math.prod(shape) * dtype.itemsize == len(data) and not fortran
    return np.frombuffer(data, dtype).reshape(shape).tolist() if whole else record
