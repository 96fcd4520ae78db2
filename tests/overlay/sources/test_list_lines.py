import io
from pathlib import Path

import pytest

from overlay.sources.list_lines import decode_list, list_lines

TEXT = "scans/a.png\r\nscans/Bäume.png\n"


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        b"\xff\xfe" + TEXT.encode("utf-16-le"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
    ],
)
def test_encodings(data: bytes) -> None:
    assert decode_list(data) == TEXT
    stream = io.TextIOWrapper(io.BytesIO(data))
    assert list(list_lines(stream)) == ["scans/a.png", "scans/Bäume.png"]


def test_other_bytes_stay_as_they_are() -> None:
    assert decode_list(b"a\0b.png\nc.png\n") == "a\0b.png\nc.png\n"
    assert decode_list(b"a\xff.png").encode(errors="surrogateescape") == b"a\xff.png"
    assert decode_list(b"") == ""


def test_quotes_are_taken_off_unless_they_are_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / '"real".png').touch()
    (tmp_path / "'all'").touch()
    lines = ['"C scans/1.png"', "'2.png'", '"say ""a"".png"', '"real".png', "'all'", '"', '""', " 3.png"]
    assert list(list_lines(io.StringIO("\n".join(lines)))) == [
        *("C scans/1.png", "2.png", 'say "a".png', '"real".png', "'all'", '"', '""', " 3.png")
    ]
