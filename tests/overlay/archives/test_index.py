import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overlay.archives.entries import Span
from overlay.archives.index import list_archive, read_member, read_members_in_order
from overlay.config import Limits
from overlay.errors import ImageError
from overlay.storage.path import StoragePath

FILES = {"a/1.png": b"one" * 300, "a/1_mask.png": b"two", "b/2.jpg": b"", "b/notes.txt": b"text"}
IMAGES = ["a/1.png", "a/1_mask.png", "b/2.jpg"]
LIMITS = Limits()


def tar(files: dict[str, bytes], *odd: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for member in odd:
            archive.addfile(member)
    return stream.getvalue()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def zst(data: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(data, asbytes=True)
    return packed


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


MAKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "x.zip": zipped,
    "stored.zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "x.tar": tar,
    "gnu.tar": lambda files: tar(files, format=tarfile.GNU_FORMAT),
    "x.tar.gz": lambda files: gzip.compress(tar(files)),
    "pigz.tgz": lambda files: b"".join(gzip.compress(tar(files)[i : i + 700]) for i in range(0, len(tar(files)), 700)),
    "x.tar.zst": lambda files: zst(tar(files)),
}


@pytest.fixture
def place(tmp_path: Path) -> Callable[[bytes], StoragePath]:
    def write(data: bytes, name: str = "archive") -> StoragePath:
        (tmp_path / name).write_bytes(data)
        return StoragePath.of(tmp_path / name)

    return write


def contents(archive: StoragePath, members: Mapping[str, Span]) -> dict[str, bytes]:
    if any(span.in_order_only for span in members.values()):
        read = dict(read_members_in_order(archive, [[span] for span in members.values()]))
        return {name: read[index][0] for index, name in enumerate(members)}
    with archive.open() as file:
        return {name: read_member(file, span) for name, span in members.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_every_kind_gives_the_same_bytes(place: Callable[..., StoragePath], name: str) -> None:
    long = {f"{'deep/' * 30}long.png": b"long", "a/\u00fc \u8d85\u58f0.png": b"unicode"}
    archive = place(MAKERS[name](FILES | long))
    listing = list_archive(archive, LIMITS)
    assert listing.problems == []
    assert sum(listing.passed_over.values()) == 1
    assert list(listing.members) == [*IMAGES, *long]
    assert contents(archive, listing.members) == {name: (FILES | long)[name] for name in [*IMAGES, *long]}


def test_zip64(place: Callable[..., StoragePath], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a/1.png", "b/2.png"):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(name.encode())
    # As if it had more than 65,535 members: the number stands in the zip64 record alone.
    data = bytearray((tmp_path / "x.zip").read_bytes())
    end = data.rindex(b"PK\5\6")
    count, size, offset = struct.unpack("<HLL", data[end + 10 : end + 20])
    record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    data[end + 8 : end + 20] = b"\xff" * 12
    archive64 = place(bytes(data[:end]) + record + locator + bytes(data[end:]))
    listing = list_archive(archive64, LIMITS)
    assert listing.problems == []
    assert contents(archive64, listing.members) == {"a/1.png": b"a/1.png", "b/2.png": b"b/2.png"}


def test_members_come_in_order_with_all_that_belongs_to_a_record(place: Callable[..., StoragePath]) -> None:
    archive = place(MAKERS["x.tar.gz"]({"i/1.png": b"1", "i/2.png": b"2", "m/2.png": b"two", "m/1.png": b"one"}))
    spans = list_archive(archive, LIMITS).members
    records = [[spans["i/1.png"], spans["m/1.png"]], [spans["i/2.png"], spans["m/2.png"], spans["m/1.png"]]]
    records.append([spans["m/2.png"], spans["i/2.png"]])
    assert list(read_members_in_order(archive, records)) == [
        (2, [b"two", b"2"]),
        (0, [b"1", b"one"]),
        (1, [b"2", b"two", b"one"]),
    ]


def test_an_archive_that_changed_is_an_error_of_the_job(place: Callable[..., StoragePath]) -> None:
    spans = list_archive(place(MAKERS["x.tar.gz"](FILES)), LIMITS).members
    changed = place(gzip.compress(b"short"))
    with pytest.raises(OSError, match="has changed since it was listed: it is shorter now"):
        list(read_members_in_order(changed, [[spans["b/2.jpg"], spans["a/1.png"]]]))


NAMES = ["/etc/1.png", "../../2.png", "a/../../3.png", "C:/4.png", "__MACOSX/a/._5.png", "a/.6.png", "./a//7.png"]


@pytest.mark.parametrize("kind", ["x.zip", "x.tar", "x.tar.gz"])
def test_names(place: Callable[..., StoragePath], kind: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    archive = place(MAKERS[kind](dict.fromkeys([*NAMES, "a/more.tar.bz2", "a/inner.zip"], b"x")))
    listing = list_archive(archive, LIMITS)
    assert list(listing.members) == ["a/7.png"]
    assert sum(listing.passed_over.values()) == 2
    unsafe = "unsafe name: absolute, or leading out of the archive"
    nested = "archive within an archive: give it as a source of its own"
    assert dict(listing.problems) == dict.fromkeys(NAMES[:4], unsafe) | dict.fromkeys(
        ["a/more.tar.bz2", "a/inner.zip"], nested
    )
    assert sorted(tmp_path.rglob("*")) == [*before, tmp_path / "archive"]


def test_names_written_on_windows_and_before_utf8(place: Callable[..., StoragePath]) -> None:
    data = zipped({"b|a|0.png": b"x", "a/AAA.png": b"y"}).replace(b"b|a|0", b"b\\a\\0").replace(b"AAA", b"\x84\x94\x81")
    listing = list_archive(place(data), LIMITS)
    assert list(listing.members) == ["b/a/0.png", "a/äöü.png"]
    assert listing.problems == []


def test_names_that_are_not_utf8(place: Callable[..., StoragePath]) -> None:
    listing = list_archive(place(tar({"a/AAA.png": b"y"}, format=tarfile.USTAR_FORMAT)), LIMITS)
    assert list(listing.members) == ["a/AAA.png"]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("a/\udcff.png"))
    assert list(list_archive(place(stream.getvalue()), LIMITS).members) == ["a/\udcff.png"]
    marked = zipped({"a/ü.png": b"x"}).replace("ü".encode(), b"\xff\xfe")
    assert list_archive(place(marked), LIMITS).problems == [
        (None, "damaged archive: a name is marked as UTF-8 and is not")
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_links_and_devices_in_a_tar(place: Callable[..., StoragePath], pack: Callable[[bytes], bytes]) -> None:
    odd = {
        "a/soft.png": tarfile.SYMTYPE,
        "a/hard.png": tarfile.LNKTYPE,
        "a/pipe.png": tarfile.FIFOTYPE,
        "out": tarfile.SYMTYPE,
        "a/zero.png": tarfile.CHRTYPE,
    }
    members = [special(name, kind, "/etc/passwd") for name, kind in odd.items()]
    listing = list_archive(place(pack(tar(FILES, special("folder", tarfile.DIRTYPE), *members))), LIMITS)
    assert list(listing.members) == IMAGES
    assert listing.problems == [(name, "link or device within an archive: only regular files are read") for name in odd]


def test_links_in_a_zip(place: Callable[..., StoragePath]) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    listing = list_archive(place(stream.getvalue()), LIMITS)
    assert listing.members == {}
    assert listing.problems == [("a/link.png", "link or device within an archive: only regular files are read")]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_duplicate_names(place: Callable[..., StoragePath], kind: str) -> None:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("a/1.png", "first")
            archive.writestr("./a/1.png", "second")
    else:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for data in (b"first", b"second"):
                member = tarfile.TarInfo("a/1.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    written = place(stream.getvalue())
    listing = list_archive(written, LIMITS)
    assert contents(written, listing.members) == {"a/1.png": b"first"}
    assert listing.problems == [("a/1.png", "duplicate name: the first member of that name is used")]


def test_encrypted_members_and_methods_that_are_not_read(place: Callable[..., StoragePath]) -> None:
    data = bytearray(zipped({"a/1.png": b"x", "a/2.png": b"y", "a/note.txt": b"z"}))
    for name in (b"a/1.png", b"a/note.txt"):
        entry = data.rindex(b"PK\1\2", 0, data.rindex(name))
        data[entry + 8] |= 1
    listing = list_archive(place(bytes(data)), LIMITS)
    assert list(listing.members) == ["a/2.png"]
    assert listing.problems == [("a/1.png", "encrypted member")]
    listing = list_archive(place(zipped({"a/1.png": b"x" * 99}, zipfile.ZIP_BZIP2)), LIMITS)
    assert listing.problems == [("a/1.png", "compression that is not read: bzip2")]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>", "no archive that can be read (zip, tar, tar.gz, tar.zst)"),
        (b"<html>" * 1000, "no archive that can be read (zip, tar, tar.gz, tar.zst)"),
        (gzip.compress(b"<html>" * 1000), "no archive that can be read (zip, tar, tar.gz, tar.zst)"),
        (zipped(FILES)[:-30], "damaged or cut off zip: it has no directory at its end"),
        (b"PK\3\4" + b"x" * 1000, "damaged or cut off zip: it has no directory at its end"),
    ],
    ids=["empty", "page", "long page", "compressed page", "cut off", "no zip"],  # a gzip header holds the time
)
def test_what_is_called_an_archive_and_is_none(place: Callable[..., StoragePath], data: bytes, reason: str) -> None:
    listing = list_archive(place(data), LIMITS)
    assert listing.members == {}
    assert listing.problems == [(None, reason)]


def test_the_content_decides_and_not_the_name(place: Callable[..., StoragePath]) -> None:
    assert list(list_archive(place(gzip.compress(tar(FILES)), "x.zip"), LIMITS).members) == IMAGES
    assert list(list_archive(place(zipped(FILES), "x.tar"), LIMITS).members) == IMAGES


def cuts() -> list[tuple[int, list[str], str]]:
    """(where a plain tar is cut, the members before it, the reason)"""
    border = "cut off archive: the blocks that mark its end are missing"
    return [
        (512, [], "cut off archive: within a/1.png"),
        (700, [], "cut off archive: within a/1.png"),
        (1536, IMAGES[:1], border),  # header, and 900 bytes in two blocks
        (1700, IMAGES[:1], "damaged or cut off archive: what follows is no header of a member"),
        (2048 + 512, IMAGES[:2], border),
        (len(tar(FILES)) // 512 * 512 - 10240 + 4096, IMAGES, border),
    ]


@pytest.mark.parametrize(("length", "members", "reason"), cuts())
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zst])
def test_cut_off_tars(
    place: Callable[..., StoragePath], length: int, members: list[str], reason: str, pack: Callable[[bytes], bytes]
) -> None:
    listing = list_archive(place(pack(tar(FILES)[:length])), LIMITS)
    assert list(listing.members) == members
    assert listing.problems == [(None, reason)]


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar.zst"])
def test_compressed_tars_that_are_cut_off_or_changed(place: Callable[..., StoragePath], name: str) -> None:
    files = {f"a/{i}.png": bytes((i * 7 + j * j) % 251 for j in range(3000)) for i in range(9)}
    data = MAKERS[name](files)
    listing = list_archive(place(data[:-2]), LIMITS)
    assert [reason for _, reason in listing.problems] == ["damaged or cut off archive: Truncated compressed stream"]
    listing = list_archive(place(data[: len(data) // 2]), LIMITS)
    assert [reason for _, reason in listing.problems] == ["damaged or cut off archive: Truncated compressed stream"]
    assert len(listing.members) < 9
    if name == "x.tar.gz":  # its checksum stands at the very end
        wrong = data[:-8] + bytes([data[-8] ^ 1]) + data[-7:]
        listing = list_archive(place(wrong), LIMITS)
        reason = "damaged or cut off archive: zlib inflate failed: incorrect data check"
        assert listing.problems == [(None, reason)]


def test_limits(place: Callable[..., StoragePath]) -> None:
    for name, maker in MAKERS.items():
        archive = place(maker(FILES))
        listing = list_archive(archive, replace(LIMITS, members=2))
        assert (list(listing.members), listing.problems) == (
            IMAGES[:2],
            [(None, "more than 2 members (limits.members)")],
        )
        listing = list_archive(archive, replace(LIMITS, member_bytes=899))
        assert list(listing.members) == IMAGES[1:]
        assert listing.problems == [("a/1.png", "member too large: 900 bytes, more than 899 (limits.member_bytes)")]
        listing = list_archive(archive, replace(LIMITS, archive_bytes=902))
        assert listing.problems == [(None, "unpacks to more than 902 bytes (limits.archive_bytes)")]
        assert list(listing.members) == (IMAGES[:1] if name.endswith(".zip") else [])
        listing = list_archive(archive, replace(LIMITS, seconds=1e-9))
        assert listing.problems == [(None, "took more than 1e-09 seconds to list (limits.seconds)")]


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.zst"])
def test_a_bomb_is_not_unpacked(place: Callable[..., StoragePath], name: str) -> None:
    data = MAKERS[name]({"a/1.png": b"fine", "a/bomb.png": bytes(50_000_000)})
    assert len(data) < 60_000
    listing = list_archive(place(data), LIMITS)
    assert list(listing.members) == ["a/1.png"]
    assert listing.problems == [(None, "unpacks to more than 100 times its size (limits.ratio)")]


def test_sizes_that_lie(place: Callable[..., StoragePath]) -> None:
    data = zipped({"a/1.png": bytes(50_000_000)})
    entry = data.rindex(b"PK\1\2")
    for declared in (10, 0):
        lying = place(data[: entry + 24] + struct.pack("<L", declared) + data[entry + 28 :])
        (span,) = list_archive(lying, LIMITS).members.values()
        with (
            lying.open() as file,
            pytest.raises(ImageError, match=f"the member's size is not the {declared} bytes that were declared"),
        ):
            read_member(file, span)
    data = zipped({"a/1.png": b"x"})
    entry = data.rindex(b"PK\1\2")
    packed = place(data[: entry + 20] + struct.pack("<L", 2**31) + data[entry + 24 :])
    assert list_archive(packed, LIMITS).problems == [
        ("a/1.png", "member too large: 2147483648 bytes, more than 268435456 (limits.member_bytes)")
    ]


def test_a_damaged_member_is_told_by_its_checksum(place: Callable[..., StoragePath]) -> None:
    data = zipped(FILES, zipfile.ZIP_STORED).replace(b"one", b"0ne", 1)
    archive = place(data)
    spans = list_archive(archive, LIMITS).members
    with archive.open() as file:
        with pytest.raises(ImageError, match="checksum is wrong"):
            read_member(file, spans["a/1.png"])
        assert read_member(file, spans["a/1_mask.png"]) == b"two"
        with pytest.raises(ImageError, match="not where the zip's directory says"):
            read_member(file, replace(spans["a/1.png"], offset=5))


def test_a_header_that_asks_for_everything(place: Callable[..., StoragePath]) -> None:
    huge = special("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    huge.size = 2**40
    listing = list_archive(place(tar({"a/1.png": b""}, huge, format=tarfile.GNU_FORMAT)), LIMITS)
    assert list(listing.members) == ["a/1.png"]
    assert listing.problems == [(None, f"damaged archive: a header of {2**40} bytes")]


def test_a_negative_size_does_not_go_round_for_ever(place: Callable[..., StoragePath]) -> None:
    negative = tarfile.TarInfo("a/2.png")
    negative.size = -1024
    data = tar({"a/1.png": b"x"})[:1024] + negative.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    listing = list_archive(place(data), LIMITS)
    assert list(listing.members) == ["a/1.png"]
    assert listing.problems == [(None, "damaged archive: a member of negative size")]


def test_webdataset_labels(place: Callable[..., StoragePath]) -> None:
    files = {"0001.png": b"x", "0001.cls": b"benign\n", "0002.seg.png": b"y", "0002.cls": b"1", "s/3.cls": b"2"}
    listing = list_archive(place(tar(files)), LIMITS)
    assert listing.labels == {"0001": "benign", "0002": "1", "s/3": "2"}
    assert list(listing.members) == ["0001.png", "0002.seg.png"]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (b'{"label": "benign", "cls": 1}', "benign"),
        (b'{"cls": 2}', "2"),
        (b'{"label": true}', None),
        (b'{"label": " "}', None),
        (b'{"label": ["benign"]}', None),
        (b'{"width": 3}', None),
        (b"[1]", None),
        (b"benign", None),
        (b"[" * 60_000, None),
        (b'{"label": "benign", "more": "' + b"x" * 70_000 + b'"}', None),
    ],
)
def test_webdataset_labels_in_json(place: Callable[..., StoragePath], text: bytes, label: str | None) -> None:
    listing = list_archive(place(tar({"s/0001.png": b"x", "s/0001.json": text})), LIMITS)
    assert listing.labels == ({"s/0001": label} if label else {})
    assert list(listing.members) == ["s/0001.png"]
    assert sum(listing.passed_over.values()) == (0 if label else 1)


def test_a_webdatasets_cls_counts_before_its_json(place: Callable[..., StoragePath]) -> None:
    files = {"1.cls": b"a", "1.json": b'{"cls": "x"}', "1.png": b"", "2.json": b'{"cls": "x"}', "2.cls": b"b"}
    assert list_archive(place(tar(files)), LIMITS).labels == {"1": "a", "2": "b"}


ARCHIVES = {name: maker(FILES) for name, maker in MAKERS.items()}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(sorted(ARCHIVES)), damage=st.data())
def test_damaged_bytes_end_in_rows(place: Callable[..., StoragePath], name: str, damage: st.DataObject) -> None:
    data = bytearray(ARCHIVES[name])
    for _ in range(damage.draw(st.integers(1, 4))):
        at = damage.draw(st.integers(0, len(data) - 1))
        data[at : at + 4] = damage.draw(st.binary(min_size=0, max_size=8))
    archive = place(bytes(data[: damage.draw(st.integers(0, len(data)))]))
    listing = list_archive(archive, replace(LIMITS, seconds=20))
    assert all(reason and reason.isprintable() for _, reason in listing.problems)
    with suppress(ImageError, OSError):
        contents(archive, listing.members)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_headers_of_a_tar_are_bounded(place: Callable[..., StoragePath], pack: Callable[[bytes], bytes]) -> None:
    """Shared pax headers stay in tarfile's memory, and their number before a member has no bound."""
    shared = {f"k{number}": "v" * 100 for number in range(3000)}
    header = tarfile.TarInfo.create_pax_global_header(shared)
    good = tar({"a/1.png": b"x"})
    listing = list_archive(place(pack(header * 20 + good)), LIMITS)
    assert [name for name, _ in listing.problems] == [None]
    assert "damaged archive: a header of " in listing.problems[0][1]
    many = [
        tarfile.TarInfo.create_pax_global_header({f"{part}-{name}": value for name, value in shared.items()})
        + good[:1024]
        for part in range(5)
    ]
    listing = list_archive(place(pack(b"".join(many) + good)), LIMITS)
    assert listing.problems[-1] == (None, "damaged archive: headers of more than 1048576 bytes for all members")
    assert list_archive(place(pack(header + good)), LIMITS).problems == []
