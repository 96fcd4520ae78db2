import io
import struct
import tracemalloc
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.archives.stream import ArchiveError
from overlay.archives.zip_directory import read_directory


def written(names: list[str], comment: bytes = b"", before: bytes = b"") -> io.BytesIO:
    stream = io.BytesIO()
    stream.write(before)
    with zipfile.ZipFile(stream, "a" if before else "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, b"x" * number, zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED)
        archive.comment = comment
    return stream


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9)),
    st.binary(max_size=60),
    st.binary(max_size=9),
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_entries_are_those_of_zipfile(names: list[str], comment: bytes, before: bytes) -> None:
    stream = written(names, comment.replace(b"PK", b""), before)
    with zipfile.ZipFile(stream) as archive:
        known = [
            *(
                (i.filename, i.flag_bits, i.compress_type, i.CRC, i.compress_size, i.file_size)
                for i in archive.infolist()
            ),
        ]
        places = [info.header_offset for info in archive.infolist()]
    found = list(read_directory(stream))
    assert [(e.name, e.flags, e.method, e.crc, e.packed, e.size) for e in found] == known
    assert [entry.offset for entry in found] == places


def test_a_directory_of_zip64() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number in range(70_000):
            archive.writestr(f"{number}.png", b"")
    assert sum(1 for _ in read_directory(stream)) == 70_000


def test_sizes_beyond_4_gib_stand_in_the_extra_field() -> None:
    data = written(["a"]).getvalue()
    place = data.index(b"PK\1\2")
    extra = struct.pack("<HHQQQ", 1, 24, 2**40, 2**41, 7)
    entry = bytearray(data[place : place + 46])
    entry[20:28] = b"\xff" * 8
    entry[42:46] = b"\xff" * 4
    entry[30:32] = struct.pack("<H", len(extra))
    end = bytearray(data[-22:])
    end[12:16] = struct.pack("<I", len(entry) + 1 + len(extra))
    (found,) = read_directory(io.BytesIO(data[:place] + entry + b"a" + extra + end))
    assert (found.size, found.packed, found.offset) == (2**40, 2**41, 7)
    for cut, reason in ((extra[:4] + extra[4:10], "cut off"), (struct.pack("<HH", 1, 0) + extra[:4], "lacks a number")):
        entry[30:32] = struct.pack("<H", len(cut))
        end[12:16] = struct.pack("<I", len(entry) + 1 + len(cut))
        with pytest.raises(ArchiveError, match=reason):
            list(read_directory(io.BytesIO(data[:place] + entry + b"a" + cut + end)))


def lying(entries: int, size: int | None = None) -> io.BytesIO:
    """A zip of three members whose end record declares other numbers."""
    data = bytearray(written(["a", "b", "c"]).getvalue())
    data[-14:-10] = struct.pack("<HH", entries, entries)
    if size is not None:
        data[-10:-6] = struct.pack("<I", size)
    return io.BytesIO(data)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (lying(2), "its directory has 3 entries and declares 2"),
        (lying(0), "its directory has 3 entries and declares 0"),
        (lying(4), "the directory of the zip is not as large as it says"),
        (lying(3, 2**32 - 1), "the directory of the zip is not as large as it says"),
        (lying(3, 140), "its directory ends early"),
        (lying(1, 46), "its directory ends early"),
        (lying(2000), "the directory of the zip is not as large as it says"),
    ],
)
def test_a_directory_that_lies(stream: io.BytesIO, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        list(read_directory(stream))


def test_memory_does_not_grow_with_the_directory() -> None:
    """A directory of 30,000 entries that declares three: zipfile would build 18 MB of them before the first."""
    data = written(["a.png"]).getvalue()
    place = data.index(b"PK\1\2")
    entry = data[place:-22]
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 3, 3, 30_000 * len(entry), place, 0)
    stream = io.BytesIO(data[:place] + entry * 30_000 + end)
    tracemalloc.start()
    for count, _ in enumerate(read_directory(stream), 1):
        if count == 20_000:
            break
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
