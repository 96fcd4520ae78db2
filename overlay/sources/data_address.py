"""Addresses in data: the files that a row of a table or a line of a list may name.

Data gives no orders. An address in it chooses no scheme, account, endpoint or query; it leads below the folder of its
table (for a list: the folder of the command), into the table's own bucket, or below a root that the user gave by
``allow_root``. Absolute paths and ``..`` are compared after the part before ``..`` is resolved.

A symbolic link below such a folder is followed, wherever it leads: DVC, git-annex and model hubs lay files out as links
to a cache elsewhere, a table or a list can't create one, and who names the folder names its links.
"""

import os
from functools import cached_property
from pathlib import PurePosixPath

from overlay.config.credentials import hide_credentials
from overlay.errors import RequestError
from overlay.storage.address import absolute_path, split_query
from overlay.storage.filenames import escape_name
from overlay.storage.path import SCHEMES, StoragePath

NOT_ALLOWED = "address not allowed in data"
"""kind of the reason of an address that is refused"""
REFUSED_VERSION = "refused"
"""in place of the time of modification of a refused file: where it is allowed later, the manifest differs"""
_MOST_FOLDERS = 3


class RefusedAddress(ValueError):
    """Address in data that may not be read; the message is the reason for its row."""


class DataAddresses:
    """Addresses in one table or list: decides about each, and whether all of them are refused."""

    def __init__(self, base: StoragePath, roots: tuple[StoragePath, ...] = ()) -> None:
        self._base, self._roots = base, roots
        self._asked = self._outside = 0
        self._folders: dict[str, str] = {}
        """bucket, or first folder of the path -> folder that all refused addresses in it share"""

    def locate(self, text: str) -> StoragePath:
        """Return the path of an address; relative ones start at the table's folder, and ``~`` is a name.

        Raises:
            RefusedAddress: the address may not be read.
        """
        self._asked += 1
        if "\0" in text:
            raise RefusedAddress(f"{NOT_ALLOWED}: it has a NUL in it")
        if "://" in text:
            return self._locate_object(text)
        if self._base.in_bucket and not text.startswith("/"):
            return _below(self._base, text)
        return self._locate_file(text)

    def check(self, what: str) -> None:
        """Check that not all addresses lie outside; ``what`` names the table or list.

        Raises:
            RequestError: all of them do; names the folders for ``allow_root``.
        """
        if not self._asked or self._outside < self._asked:
            return
        some = list(self._folders.values())
        more = f", and {len(some) - _MOST_FOLDERS} more" if len(some) > _MOST_FOLDERS else ""
        raise RequestError(
            f"{what} names only files outside {_shown(self._base)}, which data may do only in folders that the command "
            f"allows; give --allow_root {','.join(some[:_MOST_FOLDERS])}{more}"
        )

    @cached_property
    def _on_disk(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Allowed folders on the disk by their names and as links are resolved, with a slash at the end."""
        places = [place for place in (self._base, *self._roots) if not place.in_bucket]
        real = tuple(_as_prefix(place.real.text) for place in places)
        return (*(_as_prefix(place.text) for place in places), *real), real

    @cached_property
    def _in_buckets(self) -> list[StoragePath]:
        """Allowed roots in buckets, first the table's own bucket."""
        own = [_bucket_of(self._base)] if self._base.in_bucket else []
        return [*own, *(root for root in self._roots if root.in_bucket)]

    def _locate_file(self, text: str) -> StoragePath:
        own = not text.startswith("/")
        try:
            path = absolute_path(f"{self._base.text}/{text}" if own else text)
            named, real = self._on_disk
            allowed = (own and ".." not in PurePosixPath(text).parts) or _as_prefix(path).startswith(named)
            if allowed or _as_prefix(os.path.realpath(path)).startswith(real):
                return StoragePath(path)
        except (OSError, RuntimeError, ValueError) as error:  # links in a circle
            raise RefusedAddress(f"{NOT_ALLOWED}: its folder can't be resolved") from error
        folder = str(PurePosixPath(path).parent)
        raise self._refuse_outside("/".join(folder.split("/")[:2]), folder)

    def _locate_object(self, text: str) -> StoragePath:
        scheme, _, rest = text.partition("://")
        bucket = rest.partition("/")[0]
        if scheme not in SCHEMES:
            raise RefusedAddress(f"{NOT_ALLOWED}: the scheme {escape_name(scheme[:20])}:// is not read from data")
        if split_query(text)[1]:
            raise RefusedAddress(f"{NOT_ALLOWED}: it has a query, which only the command line may give")
        for root in self._in_buckets:
            above = split_query(root.text)[0].replace("://anonymous@", "://")
            named = text.replace("://anonymous@", "://") if "://anonymous@" in root.text else text
            if named.rstrip("/") == above:
                return root
            if named.startswith(f"{above}/"):
                return _below(root, named.removeprefix(f"{above}/"))
        if "@" in bucket or not bucket or ":" in bucket:
            raise RefusedAddress(f"{NOT_ALLOWED}: it names an account or a server")
        top = f"{scheme}://{bucket}"
        raise self._refuse_outside(top, text.rpartition("/")[0] if rest.count("/") else top)

    def _refuse_outside(self, top: str, folder: str) -> RefusedAddress:
        self._outside += 1
        before = self._folders.get(top)
        self._folders[top] = folder if before is None else os.path.commonpath([before, folder]).replace(":/", "://", 1)
        reason = f"{NOT_ALLOWED}: outside {_shown(self._base)}; --allow_root {escape_name(folder)} would allow it"
        return RefusedAddress(reason[:180])


def allowed_roots(option: str | None) -> tuple[StoragePath, ...]:
    """Return the folders and buckets of ``allow_root``, separated by commas.

    Raises:
        RequestError: one of them is no path, or does not exist on the disk.
    """
    roots = tuple(StoragePath.of(each) for each in (option or "").split(",") if each)
    for root in roots:
        if not root.in_bucket and not root.is_folder():
            raise RequestError(f"allow_root {root} is no folder; check the path")
    return roots


def shown_address(text: str) -> str:
    """Return a refused address as it may stand in a manifest: without credentials, in UTF-8."""
    return escape_name(hide_credentials(text))


def _below(root: StoragePath, key: str) -> StoragePath:
    # curl, which the S3 client uses, would resolve `..` in the URL, and leave the bucket.
    if {".", ".."} & set(key.split("/")):
        raise RefusedAddress(f"{NOT_ALLOWED}: it has . or .. in it")
    return root / key


def _bucket_of(place: StoragePath) -> StoragePath:
    path, query = split_query(place.text)
    return StoragePath("/".join(path.split("/")[:3]) + query)


def _as_prefix(folder: str) -> str:
    return f"{folder.rstrip('/')}/"


def _shown(place: StoragePath) -> str:
    return split_query(place.text)[0]
