"""A folder as an input of a prediction: its images, and then the archives and tables of images in it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from overlay.errors import RequestError, one_line
from overlay.images.ref import ImageRef
from overlay.sources.input_table import from_table, holds_images
from overlay.sources.inputs import Naming, Portion, from_archive, from_names, portions
from overlay.storage.filenames import escape_name, is_archive, is_image, is_table
from overlay.storage.path import StoragePath
from overlay.storage.walk import walk_folder

_ARCHIVES_AT_ONCE = 8  # decompression and requests to a bucket wait outside Python's lock


def from_folder(place: StoragePath, naming: Naming) -> Iterator[Portion]:
    """List a folder and all folders in it; an archive or a table in it is listed as if it were a folder.

    A table of paths is passed over: most likely it tells of the images beside it. One that can't be read may have held
    images, and becomes an input with the reason.

    Raises:
        OSError: it can't be read.
    """
    archives: list[str] = []
    tables: list[str] = []
    for folder in walk_folder(place):
        images = [name for name in folder.names if is_image(name)]
        others = [name for name in folder.names if not is_image(name)]
        archives += filter(is_archive, others)
        tables += filter(is_table, others)
        passed_over = sum(not (is_archive(name) or is_table(name)) for name in others)
        if passed_over:
            yield Portion([], passed_over=passed_over)
        yield from portions(from_names(images, place, folder.stamp, naming))
    with ThreadPoolExecutor(_ARCHIVES_AT_ONCE) as threads:
        for start in range(0, len(archives), _ARCHIVES_AT_ONCE):
            names = archives[start : start + _ARCHIVES_AT_ONCE]
            below = [_below(naming, name) for name in names]
            for listed in threads.map(from_archive, [place / name for name in names], below):
                yield from listed
    for name in tables:
        try:
            of_images = holds_images(place / name)
        except RequestError as error:
            yield Portion(
                [ImageRef(escape_name(naming.prefix + name), escape_name(str(place / name)), reason=one_line(error))]
            )
            continue
        if of_images:
            yield from from_table(place / name, _below(naming, name))
        else:
            yield Portion([], passed_over=1)


def _below(naming: Naming, name: str) -> Naming:
    return naming._replace(prefix=f"{naming.prefix}{name}/")
