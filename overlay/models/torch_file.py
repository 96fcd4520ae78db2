"""Files of ``torch.save``, in the format of zip archives (since torch 1.6) and in the one of several pickles before it.

The pickle in them is read by `overlay.models.inert_pickle`, which runs nothing of it; tensors are `StoredTensor`.
"""

import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from overlay.errors import UnsupportedModel
from overlay.models.inert_pickle import load_inert
from overlay.models.stored_tensor import Storage, StorageType

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip's member: lengths of its name and of its extra field


def read_torch_zip(file: Path) -> object:
    """Read the content of a zip archive of ``torch.save``.

    Raises:
        UnsupportedModel: it is TorchScript, or was written on a big-endian machine.
        Exception: it is damaged, no file of ``torch.save``, or has a refused name, of whatever type is met.
    """
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        root = next(name for name in members if name.endswith("/data.pkl") and name.count("/") == 1)
        folder = root.removesuffix("data.pkl")
        if f"{folder}constants.pkl" in members:
            raise UnsupportedModel(
                "is a TorchScript archive, whose code would have to be run; load it with torch.jit.load where it may "
                "run, and save its state_dict with torch.save"
            )
        if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
            raise UnsupportedModel("was written on a big-endian machine; save its state_dict on another one")
        data = _stored(members[root], archive).read(members[root])

    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> Storage:  # noqa: ANN401
        word, kind, key, _, count = pid
        if word != "storage" or not isinstance(kind, StorageType) or not isinstance(key, str):
            raise pickle.UnpicklingError("persistent id")
        if key not in storages:
            member = members[f"{folder}data/{key}"]
            if member.compress_type != zipfile.ZIP_STORED or count * kind.dtype.itemsize != member.file_size:
                raise pickle.UnpicklingError("storage of another size")
            storages[key] = Storage(file, kind.dtype, count, _data_offset(file, member), member.CRC)
        return storages[key]

    return load_inert(data, persistent)


def read_torch_pickles(file: Path) -> object:
    """Read the content of a file that torch before 1.6 wrote: pickles, and then the storages.

    Raises:
        Exception: it is damaged, no file of ``torch.save``, or has a refused name, of whatever type is met.
    """
    storages: dict[str, Storage] = {}

    def persistent(pid: Any) -> object:  # noqa: ANN401
        if pid[0] == "module":  # a class and its source code
            return pid[1]
        word, kind, key, _, count, view = pid
        if word != "storage" or not isinstance(kind, StorageType) or view is not None:
            raise pickle.UnpicklingError("persistent id")
        return storages.setdefault(key, Storage(file, kind.dtype, count))

    with file.open("rb") as opened:
        if load_inert(_next_pickle(opened)) != _MAGIC or load_inert(_next_pickle(opened)) != _PROTOCOL:
            raise pickle.UnpicklingError("no file of torch.save")
        _next_pickle(opened)  # sizes of C's types on the machine that wrote it
        content = load_inert(_next_pickle(opened), persistent)
        for key in load_inert(_next_pickle(opened)):
            storage = storages[key]
            if int.from_bytes(opened.read(8), "little") != storage.count:
                raise pickle.UnpicklingError("storage of another size")
            storage.offset = opened.tell()
            opened.seek(storage.bytes, 1)
        if opened.tell() > file.stat().st_size:
            raise pickle.UnpicklingError("storage that is cut off")
    return content


def _stored(member: zipfile.ZipInfo, archive: zipfile.ZipFile) -> zipfile.ZipFile:
    if member.compress_type != zipfile.ZIP_STORED:
        raise pickle.UnpicklingError("compressed member")
    return archive


def _data_offset(file: Path, member: zipfile.ZipInfo) -> int:
    with file.open("rb") as opened:
        opened.seek(member.header_offset)
        name, extra = _LOCAL_HEADER.unpack(opened.read(_LOCAL_HEADER.size))
    return member.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _next_pickle(opened: BinaryIO) -> bytes:
    """Return the bytes of the pickle at the position of a file, and leave the position behind it."""
    start = opened.tell()
    for _ in pickletools.genops(opened):
        pass
    end = opened.tell()
    opened.seek(start)
    return opened.read(end - start)
