"""Import of torchvision without torch's compiler (torch._dynamo), which takes as long to import as torch itself.

``torchvision.ops.roi_align`` imports the compiler for one question, which no classification network asks; here it is
imported when the question is asked. A process imports torchvision first by this module:
``from overlay.models.light_torchvision import torchvision``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch  # noqa: F401  # torchvision imports it, and it must not find the stand-in

__all__ = ["torchvision"]

_COMPILER, _UTILS = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def _stand_in() -> Iterator[None]:
    """Put modules with the one function that torchvision wants into the place of the compiler, if it isn't there."""
    if _COMPILER in sys.modules:
        yield
        return
    utils = ModuleType(_UTILS)
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    sys.modules |= {_COMPILER: ModuleType(_COMPILER), _UTILS: utils}
    try:
        yield
    finally:
        del sys.modules[_COMPILER], sys.modules[_UTILS]


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


with _stand_in():
    import torchvision
