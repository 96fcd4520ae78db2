"""Check of the classes of a preparation by some of their images: a class of masks is refused before any work."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from overlay.archives.index import read_members_in_order
from overlay.config import Prepare
from overlay.errors import ImageError, RequestError
from overlay.images.codec import decode_image
from overlay.images.decoder_pool import pool_for
from overlay.images.ref import ImageRef
from overlay.sources.reader import Reader
from overlay.storage.path import StoragePath

_SAMPLED = 8
_THREADS = 8  # reading waits
_LOSSY = b"\xff\xd8"
_NEAR = 16  # grey values by which a JPEG's pixel may differ from the value that was meant


class ClassSamples:
    """The first usable images of each class."""

    def __init__(self) -> None:
        self._samples: dict[str, list[ImageRef]] = {}

    def add(self, ref: ImageRef) -> None:
        """Offer an image reference with its label."""
        in_table = ref.member is not None and ref.spans is None
        if ref.label is not None and ref.reason is None and not in_table:
            samples = self._samples.setdefault(ref.label, [])
            if len(samples) < _SAMPLED:
                samples.append(ref)

    def check(self, config: Prepare) -> None:
        """Check that no class consists of masks: of images of two grey values, or of one colour and black.

        Images that can't be read are left to the preparation, which names them.

        Raises:
            RequestError: all samples of a class have two values only; blank ones don't count.
        """
        for label, samples in sorted(self._samples.items()):
            with ThreadPoolExecutor(_THREADS) as threads:
                found = set(threads.map(lambda data: _is_two_valued(data, config), _read(samples, config)))
            if True in found and False not in found:
                raise RequestError(
                    f"the images of class {label}, such as {samples[0].id}, have two values only: they are masks; say "
                    "by masks.folder, masks.suffix or masks.prefix which files are masks, or take the folder out"
                )


def _read(samples: list[ImageRef], config: Prepare) -> Iterator[bytes | None]:
    """Yield the bytes of each sample in any order; None where it can't be read."""
    in_order: dict[str, list[ImageRef]] = {}
    with Reader(config.limits.member_bytes) as reader:
        for ref in samples:
            if ref.spans and ref.spans[0].in_order_only:
                in_order.setdefault(ref.uri, []).append(ref)
                continue
            try:
                yield reader.read_function(ref)(ref.name)
            except (ImageError, OSError):
                yield None
    for uri, refs in in_order.items():
        try:
            for _, (data, *_) in read_members_in_order(StoragePath(uri), [(ref.spans or ())[:1] for ref in refs]):
                yield data
        except OSError:
            yield None


def _is_two_valued(data: bytes | None, config: Prepare) -> bool | None:
    """Whether an image has two values only; None where it is blank or can't be decoded."""
    try:
        return pool_for(config.limits).run(_has_two_values, data or b"", config.max_pixels).value
    except ImageError:
        return None


def _has_two_values(data: bytes, max_pixels: int) -> bool | None:
    pixels = decode_image(data, max_pixels=max_pixels)
    low, high = pixels.min(axis=(0, 1)).astype(int), pixels.max(axis=(0, 1)).astype(int)
    if (high == low).all():
        return None
    near = _NEAR if data.startswith(_LOSSY) else 0
    is_low, is_high = (pixels <= low + near).all(axis=2), (pixels >= high - near).all(axis=2)
    return bool(np.mean(is_low | is_high) > (0.98 if near else 0.9999))
