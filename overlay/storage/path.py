"""Files on a disk or in a bucket, by one way: listed, read, and written whole or not at all.

A bucket is s3:// (or any store that speaks S3, by AWS_ENDPOINT_URL or ``?endpoint_override=``) or gs://, through
pyarrow's file systems. A fault of the network is waited out a few times; one that stays is an OSError, which is never
mistaken for a bad image.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem

from overlay.errors import RequestError, one_line
from overlay.storage import object_store
from overlay.storage.object_store import open_object, retried

SCHEMES = ("s3", "gs")


class NotRegularFileError(OSError):
    """A pipe, a socket, a device or a folder stands where a file should be."""


@dataclass(frozen=True, order=True)
class StoragePath:
    """A file or a folder. Pickles, prints and compares as its text."""

    text: str
    """absolute path on a disk, or URI of a bucket, its query at the end"""

    @classmethod
    def of(cls, given: "str | Path | StoragePath") -> "StoragePath":
        """Take a path or URI as a user writes it.

        Raises:
            RequestError: a URI of a kind that is not known, or one with credentials in it.
        """
        if isinstance(given, StoragePath):
            return given
        text = str(given)
        if "://" not in text:
            return cls(_absolute(text))
        address = urlsplit(text)
        if address.scheme not in SCHEMES or not address.netloc:
            raise RequestError(
                f"{text} is no address that can be used; give a path, s3://bucket/... or gs://bucket/..."
            )
        anonymous = address.scheme == "gs" and address.netloc.startswith("anonymous@")  # a public bucket
        if ("@" in address.netloc and not anonymous) or "secret" in address.query.lower():
            raise RequestError(
                f"credentials in the address of a bucket ({address.scheme}://...) would be written to files and logs; "
                "set them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        path, query = _divide(text)
        return cls(path.rstrip("/") + query)

    @property
    def real(self) -> "StoragePath":
        """Where the links on its way lead: to compare two places, never to name one."""
        return self if self.in_bucket else StoragePath(os.path.realpath(self.text))

    @property
    def in_bucket(self) -> bool:
        """Whether it is in a bucket; else it is a local path."""
        return "://" in self.text

    @property
    def name(self) -> str:
        """The last part of the path."""
        return _divide(self.text)[0].rpartition("/")[2] if self.in_bucket else Path(self.text).name

    @property
    def parent(self) -> "StoragePath":
        """The folder that it lies in."""
        if not self.in_bucket:
            return StoragePath(str(Path(self.text).parent))
        path, query = _divide(self.text)
        return StoragePath(path.rpartition("/")[0] + query)

    @property
    def filesystem(self) -> FileSystem | None:
        """pyarrow's file system, None for local paths, as pyarrow and Ray Data take it."""
        return self._bucket if self.in_bucket else None

    @property
    def path(self) -> str:
        """The path within ``filesystem``."""
        return _divide(self.text)[0].partition("://")[2].removeprefix("anonymous@") if self.in_bucket else self.text

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "StoragePath":
        if not self.in_bucket:
            return StoragePath(str(Path(self.text, name)))
        path, query = _divide(self.text)
        return StoragePath(f"{path}/{name}{query}")

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return self._info("File") if self.in_bucket else Path(self.text).is_file()

    def is_folder(self) -> bool:
        """Whether there is such a folder; in a bucket, whether anything begins with its path."""
        return self._info("Directory") if self.in_bucket else Path(self.text).is_dir()

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return self.is_file() or self.is_folder()

    def children(self) -> list[str]:
        """Return the names of what lies in a folder, sorted; empty where there is no such folder."""
        if not self.in_bucket:
            return sorted(entry.name for entry in Path(self.text).iterdir()) if self.is_folder() else []
        if self.text.startswith("gs://"):  # pyarrow lists a folder there only where an object stands for it
            return sorted({name.split("/")[0] for name in self.files()})
        return sorted({info.base_name for info in self._select(recursive=False)} - {""})

    def files(self) -> list[str]:
        """Return the relative names, with slashes, of all files below a folder; a link to a folder is followed once."""
        if not self.in_bucket:
            return _local_files(Path(self.text))
        return [info.path.removeprefix(f"{self.path}/") for info in self._select(recursive=True) if info.is_file]

    def size(self) -> int:
        """Return the bytes of a file.

        Raises:
            OSError: it can't be asked for.
        """
        if not self.in_bucket:
            return Path(self.text).stat().st_size
        return int(retried(lambda: self._bucket.get_file_info(self.path)).size or 0)

    def read_bytes(self, limit: int | None = None) -> bytes:
        """Read a whole file, or at most ``limit`` bytes of it.

        Only regular files are read, and links to such: a pipe would block, and a device has no end.

        Raises:
            OSError: it can't be read; FileNotFoundError where it is not there, NotRegularFileError where it is a pipe,
                a socket, a device or a folder.
        """
        if self.in_bucket:
            return retried(lambda: self._read_once(limit))
        # Not to wait for a writer, should it be a pipe.
        descriptor = os.open(self.text, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - of a descriptor
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotRegularFileError(errno.EINVAL, "not a regular file", self.text)
            return file.read(-1 if limit is None else limit)

    def open(self, buffer: int = 256 * 1024) -> BinaryIO:
        """Open a file to be read, with seeks. ``buffer`` is what one request to a bucket asks for, in bytes."""
        if not self.in_bucket:
            return Path(self.text).open("rb")
        return open_object(self._bucket, self.path, buffer)

    def make_folder(self) -> None:
        """Make a folder and those above it; a bucket needs none."""
        if not self.in_bucket:
            Path(self.text).mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Delete a file, or a folder with all that is in it; nothing happens where there is none."""
        if not self.in_bucket:
            path = Path(self.text)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        elif self.is_file():
            retried(lambda: self._bucket.delete_file(self.path))
        elif self.is_folder():
            with suppress(FileNotFoundError):  # no object stands for the folder itself
                retried(lambda: self._bucket.delete_dir(self.path))

    def _info(self, kind: str) -> bool:
        info = retried(lambda: self._bucket.get_file_info(self.path))
        return bool(info.type.name == kind)

    def _select(self, recursive: bool) -> list[FileInfo]:
        selector = FileSelector(self.path, allow_not_found=True, recursive=recursive)
        return list(retried(lambda: self._bucket.get_file_info(selector)))

    def _read_once(self, limit: int | None) -> bytes:
        # Two requests; an input stream would ask for 256 KiB at a time.
        with self._bucket.open_input_file(self.path) as file:
            size = file.size()
            return bytes(file.read(size if limit is None else min(size, limit)))

    def upload(self, file: Path) -> None:
        """Upload a local file as this object of a bucket; the object appears only once all of it is there.

        Raises:
            OSError: the bucket refuses it, or can't be reached.
        """
        # In one call, which nothing can interrupt: a stream that is closed early completes its object all the same.
        with pa.memory_map(str(file)) as source, self._bucket.open_output_stream(self.path, compression=None) as sink:
            sink.write(source.read_buffer())

    @property
    def _bucket(self) -> FileSystem:
        path, query = _divide(self.text)
        root = "/".join(path.split("/")[:3]) + query
        try:
            return object_store.bucket_filesystem(root)
        except (ValueError, NotImplementedError) as error:
            raise RequestError(f"{root} can't be used: {one_line(error)}; check the address") from error


def _absolute(text: str) -> str:
    """Return an absolute path under the name that was given: a link keeps its own name.

    Only what stands before a ``..`` is resolved, since the folder above a link is that of its target.
    """
    path = Path(text).expanduser().absolute()
    if ".." not in path.parts:
        return str(path)
    last = len(path.parts) - path.parts[::-1].index("..")
    return str(Path(*path.parts[:last]).resolve().joinpath(*path.parts[last:]))


def _divide(text: str) -> tuple[str, str]:
    """Divide a URI into its path and its query, with the question mark; a question mark may stand in a name too."""
    match = re.search(r"\?\w+=[^/?]*$", text)
    return (text[: match.start()], match[0]) if match else (text, "")


def _local_files(folder: Path) -> list[str]:
    names, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        names += [Path(place, file).relative_to(folder).as_posix() for file in files]
    return names


Read = Callable[[str], bytes]
"""from the name of an image or a mask, as its row has it, to its bytes; raises ImageError or OSError"""
