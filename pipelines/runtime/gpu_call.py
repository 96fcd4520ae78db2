"""Call of a function on a GPU of the Ray cluster, for a driver that has none."""

from collections.abc import Callable
from typing import Any, TypeVar

import ray

_Result = TypeVar("_Result")


def call_on_gpu(function: Callable[..., _Result], *arguments: Any) -> _Result:  # noqa: ANN401
    """Call a function in a Ray task that reserves one GPU; return its result.

    Its process ends with it, so the GPU's memory is free again. An argument may be an ObjectRef.

    Raises:
        RayTaskError: the function raised an error, which is the ``cause``.
    """
    task = ray.remote(num_gpus=1, max_calls=1)(function)  # Ray takes max_calls here only, not in .options()
    result: _Result = ray.get(task.remote(*arguments))
    return result
