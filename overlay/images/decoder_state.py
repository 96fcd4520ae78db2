"""Process-wide state of the decoders while they work: ignored warnings, and Pillow's own limit on pixels.

Python's warning filters and ``PIL.Image.MAX_IMAGE_PIXELS`` belong to the whole process. `decoding` changes both while
any thread decodes, and restores them when the last one ends; ``warnings.catch_warnings`` in several threads would put
back the filters of another thread, and could leave all warnings ignored for good.
"""

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from PIL import Image

_DECODERS = r"PIL|pydicom|tifffile|overlay\.images"
_lock = threading.Lock()
_active: list[int] = []
_before: int | None = None


@contextmanager
def decoding(max_pixels: int = sys.maxsize) -> Iterator[None]:
    """Ignore the decoders' warnings, and raise Pillow's limit to ``max_pixels`` where that is larger, in a block.

    Pillow refuses more than twice its ``MAX_IMAGE_PIXELS``, also in images within an image, whose sizes no caller sees.
    """
    with _lock:
        if not _active:
            _begin()
        _active.append(max_pixels)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _active.remove(max_pixels)
            _apply()
            if not _active:
                _end()


def _begin() -> None:
    global _before
    _before = Image.MAX_IMAGE_PIXELS
    warnings.filterwarnings("ignore", module=_DECODERS)


def _apply() -> None:
    if _before is not None:
        Image.MAX_IMAGE_PIXELS = max(_before, *((pixels + 1) // 2 for pixels in _active), 0)


def _end() -> None:
    own = [entry for entry in warnings.filters if getattr(entry[3], "pattern", None) == _DECODERS]
    for entry in own:
        cast(list[object], warnings.filters).remove(entry)
