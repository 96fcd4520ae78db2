"""Lists of inputs, one path a line: the paths that may be read, and rows with reasons for the others."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from overlay.errors import ErrorKind, Reason
from overlay.images.ref import ImageRef
from overlay.sources.data_address import REFUSED_VERSION, DataAddresses, RefusedAddress, shown_address
from overlay.storage.path import StoragePath


@dataclass(frozen=True)
class InputList:
    """Lines of a list; a file that is not there is a path like others, and becomes a row with a reason later."""

    places: list[StoragePath] = field(default_factory=list)
    refused: list[ImageRef] = field(default_factory=list)
    """lines that name what data may not name, with reasons"""


def read_list(lines: Iterable[str], roots: tuple[StoragePath, ...] = ()) -> InputList:
    """Read a list; relative paths start at the folder of the command, and empty lines are passed over.

    Raises:
        RequestError: all lines name files outside this folder and ``roots``.
    """
    addresses = DataAddresses(StoragePath.of("."), roots)
    found = InputList()
    for line in dict.fromkeys(line.rstrip("\r\n") for line in lines if line.strip()):
        try:
            found.places.append(addresses.locate(line))
        except RefusedAddress as error:
            name = shown_address(line)
            if name != line:  # lines without their credentials may be equal
                name = f"{name} (line {len(found.refused) + 1} of those refused)"
            reason = Reason(str(error), ErrorKind.REFUSED)
            ref = ImageRef(name, shown_address(line), version=REFUSED_VERSION, reason=reason)
            found.refused.append(ref)
    addresses.check("the list")
    return found
