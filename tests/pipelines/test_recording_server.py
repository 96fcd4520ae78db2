"""Data that name a server: tables, lists, archives and model files, read by whole jobs; the server receives nothing."""

import io
import socketserver
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from overlay.config import Predict
from overlay.errors import RequestError
from overlay.models.model_file import load_model_file
from overlay.models.pretrained import load_pretrained
from overlay.sources.data_address import NOT_ALLOWED
from overlay.sources.labelled import ListingOptions, list_labelled
from overlay.storage.path import StoragePath
from pipelines import predict
from tests.overlay.archives.test_index import tar
from tests.pipelines.test_archives import random_model

__all__ = ["random_model"]  # a fixture


@dataclass
class Recorder:
    """Server that records what it is sent, and answers that there is nothing."""

    host: str
    received: list[bytes] = field(default_factory=list)

    @property
    def addresses(self) -> list[str]:
        """Addresses that would have a program connect to the server, or to another one."""
        query = f"endpoint_override={self.host}&scheme=http"
        return [
            f"s3://bucket/y.png?{query}",
            f"s3://bucket?{query}",
            f"s3://bucket/a.png#?{query}",
            f"s3://key:word@{self.host}/x.png",
            f"s3://{self.host}/x.png",
            f"gs://bucket/x.png?{query}",
            f"http://{self.host}/x.png",
            f"https://{self.host}/x.png",
            f"http://user@{self.host}/x.png",
            f"file://{self.host}/x.png",
            f"//{self.host}/x.png",
            "http://169.254.169.254/latest/meta-data/iam",
        ]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            record.received.append(self.request.recv(65536))
            self.request.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        record = Recorder(f"127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield record
        server.shutdown()
        thread.join()


def test_the_command_line_may_name_a_server(recorder: Recorder) -> None:
    """So that the other tests would see it."""
    assert not StoragePath.of(f"s3://bucket/x.png?endpoint_override={recorder.host}&scheme=http&region=eu").is_file()
    assert any(b"AWS4-HMAC-SHA256" in each for each in recorder.received)


def test_tables_lists_and_archives(
    recorder: Recorder, random_model: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = next((phantoms / "normal").glob("*.png")).read_bytes()
    (tmp_path / "good.png").write_bytes(good)
    named = recorder.addresses
    masks = [None, *named[1:], "good.png"]
    pq.write_table(pa.table({"uri": [*named, "good.png"], "mask": masks}), tmp_path / "uris.parquet")
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([*({"bytes": None, "path": each} for each in named), {"bytes": good, "path": "x"}], struct)
    pq.write_table(pa.table({"image": images}), tmp_path / "hf.parquet")
    members = {f"{number}-{each}": each.encode() for number, each in enumerate(named)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in {**members, "good.png": good}.items():
            archive.writestr(name, data)
    web = {"1.png": good, "1.json": f'{{"url": "{named[0]}", "label": "{named[6]}"}}'.encode(), "2.url": b"x"}
    (tmp_path / "web.tar").write_bytes(tar(web))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([*named, "good.png"])))
    inputs = ["uris.parquet", "hf.parquet", "a.zip", "web.tar", "-"]
    predict.run(Predict(str(random_model), inputs, "out", engine="torch", precision="fp32"))

    rows = pq.read_table("out/predictions").to_pylist()
    refused = [row for row in rows if row["error"] and row["error"].startswith(NOT_ALLOWED)]
    assert len(refused) == 3 * len(named)
    assert sum(row["status"] == "ok" for row in rows) >= 4
    assert "word" not in "".join(f"{row['uri']} {row['id']} {row['error']}" for row in refused)
    assert recorder.received == []


def test_sources_of_a_dataset(recorder: Recorder, phantoms: Path, tmp_path: Path) -> None:
    good = next((phantoms / "normal").glob("*.png"))
    (tmp_path / "good.png").write_bytes(good.read_bytes())
    named = recorder.addresses
    table = pa.table({"uri": [*named, "good.png"], "label": ["a"] * len(named) + ["b"]})
    pq.write_table(table, tmp_path / "uris.parquet")
    listing = list_labelled([str(tmp_path / "uris.parquet")], ListingOptions(), tmp_path)
    reasons = [ref.reason for ref, _ in listing.read()]
    assert [bool(reason and reason.startswith(NOT_ALLOWED)) for reason in reasons].count(True) == len(named)
    assert recorder.received == []


def test_model_files(recorder: Recorder, random_model: Path, tmp_path: Path) -> None:
    loaded = load_model_file(random_model)
    state = torch.load(random_model, weights_only=True)
    for address in recorder.addresses:
        for name in ("dataset", "weights", "arch", "endpoint"):
            state.overlay |= {name: address}
            torch.save(state, tmp_path / "m.pth")
            with pytest.raises(RequestError):
                load_model_file(tmp_path / "m.pth")
    call = f"curllib.request\nurlopen\n(X\x1f\x00\x00\x00http://{recorder.host}/aaaa\ntR."
    (tmp_path / "m.pth").write_bytes(b"\x80\x02" + call.encode("latin1"))
    for load in (load_model_file, lambda path: load_pretrained("resnet18", str(path))):
        with pytest.raises(RequestError):
            load(tmp_path / "m.pth")
    assert loaded.card.arch == "resnet18"
    assert recorder.received == []
