"""Tensors of a file of ``torch.save`` that are read when they are needed, within the bounds of their storage."""

import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

# Elements of a tensor that has more of them than its storage, since some have the same place in memory: copying such a
# tensor of a file takes no more than this.
_LARGEST_EXPANDED = 2**16
_DTYPES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}


@dataclass(frozen=True)
class StorageType:
    """Element type of a storage."""

    dtype: torch.dtype

    @classmethod
    def named(cls, name: str) -> "StorageType | None":
        """Return the type of ``torch.FloatStorage`` for ``Float``; None where there is none."""
        return cls(_DTYPES[name]) if name in _DTYPES else None


@dataclass
class Storage:
    """Elements of one type, one after the other, in a file."""

    file: Path
    dtype: torch.dtype
    count: int
    """elements"""
    offset: int = -1
    """position of the first byte in the file"""
    checksum: int | None = None
    """CRC-32 of the bytes; None where the file has none"""
    _loaded: Tensor | None = field(default=None, repr=False)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.count * self.dtype.itemsize

    def read(self) -> Tensor:
        """Read the elements, (count,); later calls return the same tensor.

        Raises:
            UnpicklingError: the file is shorter, or the checksum is another.
        """
        if self._loaded is None:
            data = bytearray(self.bytes)
            with self.file.open("rb") as opened:
                opened.seek(self.offset)
                if opened.readinto(data) != self.bytes:
                    raise UnpicklingError("storage that is cut off")
            if self.checksum is not None and zlib.crc32(data) != self.checksum:
                raise UnpicklingError("storage with another checksum")
            self._loaded = torch.frombuffer(data, dtype=self.dtype) if data else torch.empty(0, dtype=self.dtype)
        return self._loaded


@dataclass(frozen=True)
class StoredTensor:
    """Tensor of a file that was not read yet."""

    storage: Storage
    offset: int
    """elements of the storage before the first one"""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def checked(cls, storage: Storage, offset: object, shape: object, stride: object) -> "StoredTensor":
        """Make a tensor of values from a file.

        Raises:
            UnpicklingError: it reaches beyond its storage, or is expanded to more than 2**16 elements.
        """
        shape, stride = _whole_numbers(shape), _whole_numbers(stride)
        if not isinstance(offset, int) or offset < 0 or len(shape) != len(stride):
            raise UnpicklingError("tensor with a wrong layout")
        count = math.prod(shape)
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if count and (last >= storage.count or count > max(storage.count, _LARGEST_EXPANDED)):
            raise UnpicklingError("tensor beyond its storage")
        return cls(storage, offset, shape, stride)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def read(self) -> Tensor:
        """Read the tensor; tensors of one storage share memory."""
        return self.storage.read().as_strided(self.shape, self.stride, self.offset)


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(isinstance(value, int) and value >= 0 for value in values):
        raise UnpicklingError("tensor with a wrong layout")
    return tuple(values)
