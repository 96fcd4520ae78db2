"""Hostile inputs: files, archives, tables and a list, with the kind of error that each row must have.

`DECODER` is a module for the path of a decoder process: an image with ``KILLS`` in its bytes ends the process by
SIGSEGV while Pillow opens it, and one with ``TAKES_MEMORY`` takes 8 GiB, as a faulty decoder would.
"""

import gzip
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from scripts.fault_injection.poison import DECODER, KILLS, TAKES_MEMORY
from tests.overlay.archives.test_index import tar, zipped


def picture(seed: int = 0, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def killer() -> bytes:
    """Return an image on which `DECODER` dies; a JPEG, since plain PNGs are not read by Pillow."""
    return picture(8, "JPEG") + KILLS


def install_decoder(folder: Path) -> None:
    """Write `DECODER` so that each Python process with ``folder`` on its path runs it."""
    (folder / "sitecustomize.py").write_text(DECODER)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, data: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def write_files(folder: Path) -> dict[str, str | None]:
    """Write images and what looks like images; return id -> kind of error, None for what is right."""
    good = picture()
    contents: dict[str, tuple[bytes, str | None]] = {
        "good.png": (good, None),
        "-dash.png": (picture(1), None),
        "new\nline.png": (picture(2), None),
        "question?mark=1.png": (picture(3), None),
        "right.jpg": (picture(4), None),  # a PNG by its content
        "empty.jpg": (b"", "damaged"),
        "text.png": (b"no image", "damaged"),
        "page.png": (b"<html><body>404</body></html>", "damaged"),
        "zeros.png": (bytes(1000), "damaged"),
        "cut.png": (good[: len(good) // 2], "damaged"),
        "head.png": (good[:33], "damaged"),
        "flipped.png": (good[:60] + bytes([good[60] ^ 255]) + good[61:], "damaged"),
        "garbage.png": (_png(8, 8, b"garbage"), "damaged"),
        "nothing.png": (_png(0, 0, zlib.compress(b"")), "damaged"),
        "cut.jpg": (picture(5, "JPEG")[:300], "damaged"),
        "head.gif": (b"GIF89a\x10\x00\x10\x00\x00\x00\x00", "damaged"),
        "cut.webp": (picture(6, "WEBP")[:60], "damaged"),
        "cut.tif": (picture(7, "TIFF")[:100], "damaged"),
        "circle.tif": (b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\x01\0\0\0\x01\0\0\0\x08\0\0\0", "damaged"),
        "broken.dcm": (bytes(128) + b"DICM" + bytes(range(256)), "damaged"),
        "vast.png": (_png(13_000, 13_000, zlib.compress(bytes(1000))), "too_large"),
        "billions.png": (_png(2**31 - 1, 2**31 - 1), "too_large"),
        "killer.jpg": (killer(), "crashed"),
        "hog.jpg": (picture(9, "JPEG") + TAKES_MEMORY, "too_large"),
    }
    folder.mkdir(parents=True)
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    kinds = {name: kind for name, (_, kind) in contents.items()}
    with (folder / "sparse.tif").open("wb") as sparse:
        sparse.truncate(2**40)
    os.mkfifo(folder / "pipe.png")
    for name, target in {"gone.png": "nowhere", "loop.png": "loop.png", "zero.png": "/dev/zero"}.items():
        (folder / name).symlink_to(target)
    return kinds | {
        "sparse.tif": "too_large",
        **dict.fromkeys(("pipe.png", "gone.png", "loop.png", "zero.png"), "refused"),
    }


def write_archives(folder: Path) -> dict[str, str | None]:
    """Write archives beside other files of a folder; return id -> kind of error."""
    good = picture(20)
    encrypted = bytearray(zipped({"secret.png": good}))
    encrypted[encrypted.rindex(b"PK\1\2") + 8] |= 1
    lying = bytearray(zipped({"lying.png": good}))
    at = lying.rindex(b"PK\1\2") + 24
    lying[at : at + 4] = struct.pack("<I", len(good) + 5)
    archives = {
        "whole.zip": zipped({"good.png": good}),
        "none.zip": b"",
        "text.zip": b"no archive",
        "cut.zip": zipped({"good.png": good})[:-30],
        "bomb.zip": zipped({"zeros.png": bytes(50_000_000)}),
        "nested.zip": zipped({"inner.zip": zipped({"x.png": good})}),
        "up.zip": zipped({"../up.png": good}),
        "encrypted.zip": bytes(encrypted),
        "lying.zip": bytes(lying),
        "cut.tar.gz": gzip.compress(tar({"before.png": good}))[:-40],
    }
    for name, data in archives.items():
        (folder / name).write_bytes(data)
    return {
        "whole.zip/good.png": None,
        "none.zip": "damaged",
        "text.zip": "damaged",
        "cut.zip": "damaged",
        "bomb.zip": "too_large",
        "nested.zip/inner.zip": "refused",
        "up.zip/../up.png": "refused",
        "encrypted.zip/secret.png": "refused",
        "lying.zip/lying.png": "damaged",
        "cut.tar.gz/before.png": None,
        "cut.tar.gz": "damaged",
    }


def write_tables(folder: Path, images: Path) -> dict[str, dict[str, str | None]]:
    """Write ``paths.parquet``, ``images.parquet`` and ``torn.parquet``; return table -> id -> kind of error.

    ``images`` is a folder within ``folder``.
    """
    (images / "table.png").write_bytes(picture(30))
    paths: dict[str, tuple[str | None, str | None]] = {
        "right": (f"{images.name}/table.png", None),
        "gone": (f"{images.name}/nowhere.png", "unreadable"),
        "nul": (f"{images.name}/a\0b.png", "refused"),
        "long": ("x" * 300 + ".png", "refused"),
        "longer": ("x/" * 3000 + ".png", "refused"),
        "web": ("http://127.0.0.1:9/x.png", "refused"),
        "file": ("file:///etc/passwd", "refused"),
        "folder": (images.name, "refused"),
        "empty": ("", "refused"),
        "null": (None, "refused"),
    }
    columns = {"id": list(paths), "path": [path for path, _ in paths.values()]}
    pq.write_table(pa.table(columns), folder / "paths.parquet")
    stored = {"right": (picture(31), None), "none": (b"", "damaged"), "junk": (b"junk", "damaged")}
    table = {"id": [*stored, "null"], "image": [*(data for data, _ in stored.values()), None]}
    pq.write_table(pa.table(table, pa.schema([("id", pa.string()), ("image", pa.binary())])), folder / "images.parquet")
    whole = (folder / "images.parquet").read_bytes()
    (folder / "torn.parquet").write_bytes(whole[:-20])
    return {
        "paths.parquet": {name: kind for name, (_, kind) in paths.items()},
        "images.parquet": {**{name: kind for name, (_, kind) in stored.items()}, "null": "refused"},
    }
