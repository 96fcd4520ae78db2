"""Storage paths: files and folders on a disk or in a bucket, with one interface to list, read, upload and delete.

A bucket is s3:// (or any S3-compatible store, by AWS_ENDPOINT_URL or ``?endpoint_override=``) or gs://, through
pyarrow's file systems. A network fault is retried; one that persists is an OSError, never an ImageError, so that it is
not recorded as a bad image.
"""

import errno
import os
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

from overlay.config.credentials import check_no_credentials
from overlay.errors import RequestError, one_line
from overlay.storage import object_store
from overlay.storage.address import absolute_path, join_query, split_query
from overlay.storage.filenames import is_stray, is_temporary
from overlay.storage.object_store import open_object, retry

SCHEMES = ("s3", "gs")


class NotRegularFileError(OSError):
    """The path is a pipe, a socket, a device or a folder, not a regular file."""


@dataclass(frozen=True, order=True)
class StoragePath:
    """Path of a file or a folder on a disk or in a bucket; it pickles, prints and compares as its text."""

    text: str
    """absolute path on a disk, or URI in a bucket with its query at the end"""

    @classmethod
    def of(cls, given: "str | Path | StoragePath") -> "StoragePath":
        """Parse a path or a URI as a user writes it; ``~`` is expanded, and symbolic links keep their names.

        Raises:
            RequestError: the scheme is not one of ``SCHEMES``, the bucket is missing, or the URI has credentials in it.
        """
        if isinstance(given, StoragePath):
            return given
        text = str(given)
        if "://" not in text:
            return cls(absolute_path(text))
        address = urlsplit(text)
        if address.scheme not in SCHEMES or not address.netloc:
            raise RequestError(
                f"{text} is no address that can be used; give a path, s3://bucket/... or gs://bucket/..."
            )
        check_no_credentials(f"{address.scheme}://...", text)
        path, query = split_query(text)
        if query == "?" and not split_query(path)[1]:  # written by the user: a name, or a pattern
            path = text
        return cls(join_query(path.rstrip("/"), query))

    @property
    def real(self) -> "StoragePath":
        """The path with all symbolic links resolved: to compare two paths, never to show or store one."""
        return self if self.in_bucket else StoragePath(os.path.realpath(self.text))

    @property
    def in_bucket(self) -> bool:
        """Whether the path is in a bucket; else it is local."""
        return "://" in self.text

    @property
    def name(self) -> str:
        """Last component of the path."""
        return split_query(self.text)[0].rpartition("/")[2] if self.in_bucket else Path(self.text).name

    @property
    def parent(self) -> "StoragePath":
        """Path of the containing folder."""
        if not self.in_bucket:
            return StoragePath(str(Path(self.text).parent))
        path, query = split_query(self.text)
        return StoragePath(join_query(path.rpartition("/")[0], query))

    @property
    def filesystem(self) -> FileSystem | None:
        """File system of pyarrow; None for local paths, as pyarrow and Ray Data expect."""
        return self._bucket if self.in_bucket else None

    @property
    def path(self) -> str:
        """Path within ``filesystem``."""
        return split_query(self.text)[0].partition("://")[2].removeprefix("anonymous@") if self.in_bucket else self.text

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "StoragePath":
        if not self.in_bucket:
            return StoragePath(str(Path(self.text, name)))
        path, query = split_query(self.text)
        return StoragePath(join_query(f"{path}/{name}", query))

    def is_file(self) -> bool:
        """Whether the path is an existing file."""
        return self._info("File") if self.in_bucket else _is(Path.is_file, self.text)

    def is_folder(self) -> bool:
        """Whether the path is an existing folder; in a bucket, whether an object has it as a prefix."""
        return self._info("Directory") if self.in_bucket else _is(Path.is_dir, self.text)

    def exists(self) -> bool:
        """Whether the path is an existing file or folder."""
        return self.is_file() or self.is_folder()

    def children(self) -> list[str]:
        """Return the sorted names of the files and folders in a folder; empty for a folder that does not exist."""
        if not self.in_bucket:
            return sorted(entry.name for entry in Path(self.text).iterdir()) if self.is_folder() else []
        if self.text.startswith("gs://"):  # pyarrow lists a folder there only where an object stands for it
            return sorted({name.split("/")[0] for name in self.files()})
        return sorted({info.base_name for info in self._select(recursive=False)} - {""})

    def contents(self) -> list[str]:
        """Return the names in an output folder that are its contents: no locks, temporary files or a desktop's."""
        return [name for name in self.children() if not is_stray(name) and not is_temporary(name)]

    def files(self) -> list[str]:
        """Return the relative paths, with slashes, of all files below a folder.

        A symbolic link to a folder is followed once.
        """
        if not self.in_bucket:
            return _local_files(Path(self.text))
        return [info.path.removeprefix(f"{self.path}/") for info in self._select(recursive=True) if info.is_file]

    def size(self) -> int:
        """Return the size of a file in bytes.

        Raises:
            OSError: the file does not exist on the disk, or the bucket can't be reached.
        """
        if not self.in_bucket:
            return Path(self.text).stat().st_size
        return int(retry(lambda: self._bucket.get_file_info(self.path)).size or 0)

    def read_bytes(self, limit: int | None = None) -> bytes:
        """Read a file, or at most its first ``limit`` bytes.

        Only regular files and symbolic links to them are read: a pipe would block, and a device has no end.

        Raises:
            FileNotFoundError: there is no such file.
            NotRegularFileError: the path is a pipe, a socket, a device or a folder.
            OSError: the file can't be read.
        """
        if self.in_bucket:
            return retry(lambda: self._read_once(limit))
        # O_NONBLOCK: opening a pipe would wait for a writer.
        descriptor = os.open(self.text, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NotRegularFileError(errno.EINVAL, "not a regular file", self.text)
            return file.read(-1 if limit is None else limit)

    def open(self, buffer: int = 256 * 1024) -> BinaryIO:
        """Open a file for reading, with seeks; each request to a bucket asks for ``buffer`` bytes.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the file can't be opened.
        """
        if not self.in_bucket:
            return Path(self.text).open("rb")
        return open_object(self._bucket, self.path, buffer)

    def make_folder(self) -> None:
        """Create a folder and its parents; does nothing in a bucket, which has no folders."""
        if not self.in_bucket:
            Path(self.text).mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Delete a file, or a folder with its contents; does nothing where neither exists.

        Raises:
            OSError: the file or the folder can't be deleted.
        """
        if not self.in_bucket:
            path = Path(self.text)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        elif self.is_file():
            with suppress(FileNotFoundError):  # another process has just deleted it
                retry(lambda: self._bucket.delete_file(self.path))
        elif self.is_folder():
            with suppress(FileNotFoundError):  # no object stands for the folder itself
                retry(lambda: self._bucket.delete_dir(self.path))

    def _info(self, kind: str) -> bool:
        info = retry(lambda: self._bucket.get_file_info(self.path))
        return bool(info.type.name == kind)

    def _select(self, recursive: bool) -> list[FileInfo]:
        selector = FileSelector(self.path, allow_not_found=True, recursive=recursive)
        return list(retry(lambda: self._bucket.get_file_info(selector)))

    def _read_once(self, limit: int | None) -> bytes:
        # Two requests; an input stream would ask for 256 KiB at a time.
        with self._bucket.open_input_file(self.path) as file:
            size = file.size()
            return bytes(file.read(size if limit is None else min(size, limit)))

    def upload(self, file: Path) -> None:
        """Upload a local file as this object of a bucket; the object becomes visible only when it is complete.

        Raises:
            OSError: the bucket rejects the upload, or can't be reached.
        """
        # One write call, which nothing can interrupt: a stream that is closed early still completes its object.
        with pa.memory_map(str(file)) as source, self._bucket.open_output_stream(self.path, compression=None) as sink:
            sink.write(source.read_buffer())

    @property
    def _bucket(self) -> FileSystem:
        path, query = split_query(self.text)
        root = "/".join(path.split("/")[:3]) + query.removesuffix("?")
        try:
            return object_store.bucket_filesystem(root)
        except (ValueError, NotImplementedError) as error:
            raise RequestError(f"{root} can't be used: {one_line(error)}; check the address") from error


def _is(kind: Callable[[Path], bool], text: str) -> bool:
    try:
        return kind(Path(text))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # so there can't be one
            return False
        raise


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
