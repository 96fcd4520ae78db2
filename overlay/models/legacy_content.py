"""Weights inside what other programs save: bare, inside a dictionary of a training, or as a whole model."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overlay.models.inert_pickle import Record
from overlay.models.safe_load import Weight, is_state_dict
from overlay.models.visit_budget import VisitBudget

_WHOLE = ("model", "net", "network", "module")
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
_STATES = (
    *("model_state_dict", "state_dict", "model_state", "net_state_dict", "model_weights", "weights", "params"),
    *(*_WHOLE, "backbone", "encoder", "state", "checkpoint", *_AVERAGED),
)
_NO_WEIGHTS = re.compile(r"optim|sched|scaler|loss|criterion|callback|loop|hyper|config|args", re.IGNORECASE)
_DEEPEST = 3


@dataclass(frozen=True)
class FoundWeights:
    """Weights that were found in a file, and what stands beside them."""

    state: "OrderedDict[str, Weight] | None"
    """a state_dict; None where there is only a whole model"""
    module: Record | None
    """a whole model, out of DataParallel"""
    beside: Mapping[Any, Any]
    """all of the file that is no tensor: class names among it"""


def find_weights(content: object) -> FoundWeights | None:
    """Find a state_dict, a whole model or both in what a file holds; None where there is neither.

    Raises:
        UnsupportedModel: it holds more than can be looked at.
    """
    if isinstance(content, Record):
        content = {"model": content}
    if not isinstance(content, dict):
        return None
    if is_state_dict(content):
        return FoundWeights(OrderedDict(content), None, {})
    module = _find_module(content)
    state = _find_state(content, 0, VisitBudget())
    if state is None and module is None:
        return None
    beside = {name: value for name, value in content.items() if not isinstance(value, Weight)}
    if module is not None:
        beside |= {"": {name: value for name, value in module.attributes.items() if not str(name).startswith("_")}}
    return FoundWeights(state, module, beside)


def _find_module(content: Mapping[Any, Any]) -> Record | None:
    for key in _WHOLE:
        found = content.get(key)
        if isinstance(found, Record) and isinstance(found.attributes.get("_modules"), dict):
            inner = found.attributes["_modules"].get("module")  # what DataParallel wraps
            return inner if isinstance(inner, Record) and found.kind.endswith("DataParallel") else found
    return None


def _find_state(content: Mapping[Any, Any], depth: int, budget: VisitBudget) -> "OrderedDict[str, Weight] | None":
    budget.spend(len(content) + sum(len(value) for value in content.values() if isinstance(value, dict)))
    for key in _STATES:
        found = content.get(key)
        if is_state_dict(found):
            return OrderedDict(found)
        inner = _find_state(found, depth + 1, budget) if isinstance(found, dict) and depth < _DEEPEST else None
        if inner is not None:
            return inner
    # Weights among other things: tensors beside numbers and names, or under a name that is nobody else's.
    loose = OrderedDict(
        (name, value) for name, value in content.items() if isinstance(name, str) and isinstance(value, Weight)
    )
    if sum("." in name for name in loose) > 1:
        return loose
    named = [value for name, value in content.items() if is_state_dict(value) and not _NO_WEIGHTS.search(str(name))]
    return OrderedDict(named[0]) if len(named) == 1 else None
