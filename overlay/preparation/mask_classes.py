"""Classes by the colours of masks (``masks.colors``), for datasets without class folders."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from overlay.config import Prepare
from overlay.errors import ErrorKind, ImageError, Reason, RequestError, one_line
from overlay.images.decoder_pool import pool_for
from overlay.images.masks import mask_colors
from overlay.images.ref import ImageRef
from overlay.sources.reader import Reader, unreadable

_AT_ONCE = 64
_THREADS = 8  # reading waits
_BLACK = 0


def label_by_colors(refs: Iterable[tuple[ImageRef, str]], config: Prepare) -> Iterator[tuple[ImageRef, str]]:
    """Yield image references and paths with the class of the colour of their masks as label, or with a reason.

    Raises:
        RequestError: masks are in an archive that is compressed as a whole, and can't be read by position.
    """
    classes = config.masks.classes_by_color()
    waiting = iter(refs)
    with ThreadPoolExecutor(_THREADS) as threads:
        while some := list(islice(waiting, _AT_ONCE)):
            labelled = threads.map(lambda each: _label(each[0], classes, config), some)
            yield from zip(labelled, (path for _, path in some), strict=True)


def _label(ref: ImageRef, classes: Mapping[int, str], config: Prepare) -> ImageRef:
    if ref.reason is not None:
        return ref
    if not ref.masks:
        return _refuse(ref, "image without a mask, whose colour would be its class")
    if ref.spans and ref.spans[0].in_order_only:
        raise RequestError(
            f"masks.colors can't read {ref.uri}, compressed as a whole; give it unpacked, as .tar or .zip"
        )
    found: set[int] = set()
    with Reader(config.limits.member_bytes) as reader:
        read = reader.read_function(ref)
        try:
            for mask in ref.masks:
                found |= pool_for(config.limits).run(_read_colors, read(mask), config.max_pixels).value
        except OSError as error:
            return ref._replace(reason=unreadable(error))
        except ImageError as error:
            return ref._replace(reason=Reason(f"mask that can't be used: {one_line(error)}", error.kind))
    found = found - {_BLACK} or {_BLACK}  # black is the background of the others
    if unknown := found - classes.keys():
        return _refuse(ref, f"mask of the colour #{min(unknown):06x}: masks.colors doesn't name it")
    labels = sorted({classes[color] for color in found})
    if len(labels) > 1:
        return _refuse(ref, f"mask of several classes: {', '.join(labels)}")
    return ref._replace(label=labels[0])


def _read_colors(data: bytes, max_pixels: int) -> set[int]:
    return mask_colors(data, max_pixels=max_pixels)


def _refuse(ref: ImageRef, reason: str) -> ImageRef:
    return ref._replace(reason=Reason(reason, ErrorKind.REFUSED))
