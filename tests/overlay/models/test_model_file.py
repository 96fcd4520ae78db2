import hashlib
import os
import pickle
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from overlay import load_model
from overlay.config import Input, Legacy, OverlayStyle
from overlay.errors import RequestError
from overlay.models import model_file, training_hashes
from overlay.models.network import IMAGENET_MEAN, IMAGENET_STD, create_network
from overlay.models.pretrained import Weights, initialise_backbone, load_pretrained
from overlay.models.training_hashes import TrainingHashes
from overlay.storage.atomic import write_atomically
from overlay.storage.path import StoragePath

CARD = model_file.ModelCard(
    arch="resnet18",
    classes=("benign", "malignant", "normal"),
    size=64,
    resize="pad",
    mean=(0.5, 0.25, 0.125),
    std=(0.25, 0.5, 0.75),
    overlay=OverlayStyle(style="contour", width=5),
    dataset="fingerprint",
    weights="none",
    version="0.1.0",
)
PLAIN_SCRIPT = """
import importlib.util, sys, torch, torchvision
assert importlib.util.find_spec("overlay") is None
for arch in sys.argv[1:]:
    state = torch.load(arch + ".pth", weights_only=True)
    network = getattr(torchvision.models, arch)(num_classes=3)
    print(network.load_state_dict(state, strict=True), len(state))
"""


def state_of(arch: str = "resnet18", classes: int = 3) -> dict[str, Tensor]:
    network: nn.Module = torchvision.models.get_model(arch, num_classes=classes)
    return network.state_dict()


@pytest.fixture(scope="module")
def resnet18() -> dict[str, Tensor]:
    """As torchvision publishes it: 1000 classes, no card."""
    return state_of(classes=1000)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file; not to be changed."""
    file = tmp_path_factory.mktemp("run") / model_file.MODEL_FILE
    model_file.save_model_file(file, OrderedDict(state_of()), CARD)
    return file


def refusal(call: Any, *arguments: Any) -> str:  # noqa: ANN401
    with pytest.raises(RequestError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def without_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# The model file


@pytest.mark.slow
def test_a_plain_script_without_this_package_loads_the_file(tmp_path: Path) -> None:
    states = {arch: state_of(arch) for arch in ("resnet18", "resnet101")}
    for arch, state in states.items():
        model_file.save_model_file(tmp_path / f"{arch}.pth", OrderedDict(state), replace(CARD, arch=arch))
    # Torch lies beside this package, so only the ways that lead to this one are closed: its folder and its finder.
    root = str(Path(model_file.__file__).parents[2])
    hide = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
    script = tmp_path / "plain.py"
    script.write_text(f"{hide}sys.path = [p for p in sys.path if p != {root!r}]\n{PLAIN_SCRIPT}")
    done = subprocess.run(
        [sys.executable, script, *states],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    expected = [f"<All keys matched successfully> {len(state)}" for state in states.values()]
    assert done.stdout.splitlines() == expected, done.stderr


def test_what_was_saved_is_loaded(written: Path) -> None:
    loaded = model_file.load_model_file(written)
    assert loaded.card == CARD
    assert loaded.card.input == Input(size=64, resize="pad")
    assert loaded.sha256 == hashlib.sha256(written.read_bytes()).hexdigest()
    network = model_file.build_network(loaded)
    assert not network.training
    assert_equal(network.state_dict(), loaded.state)
    assert model_file.load_model_file(written.parent).path == str(written)


def test_what_was_trained_is_saved(tmp_path: Path) -> None:
    """A network in training lies on its device channels last, needs gradients, and has a style that is not known."""
    network = create_network("resnet18", 3).to(memory_format=torch.channels_last)
    model_file.save_model_file(tmp_path / "m.pth", OrderedDict(network.state_dict(keep_vars=True)), CARD)
    model_file.save_model_file(tmp_path / "n.pth", OrderedDict(network.state_dict()), replace(CARD, overlay=None))
    assert_equal(model_file.load_model_file(tmp_path / "m.pth").state, network.state_dict())
    assert model_file.load_model_file(tmp_path / "n.pth").card.overlay is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.pth", "n.pth"]


def test_views_of_one_storage_are_saved_without_the_rest_of_it(written: Path, tmp_path: Path) -> None:
    """As a checkpoint of a GPU's training holds them."""
    state = model_file.load_model_file(written).state
    floats = {name: tensor for name, tensor in state.items() if tensor.dtype == torch.float32}
    whole = torch.cat([tensor.flatten() for tensor in floats.values()])
    parts = dict(zip(floats, torch.split(whole, [tensor.numel() for tensor in floats.values()]), strict=True))
    views = OrderedDict((name, parts[name].view_as(each) if name in parts else each) for name, each in state.items())
    model_file.save_model_file(tmp_path / "m.pth", views, CARD)
    assert (tmp_path / "m.pth").read_bytes() == written.read_bytes()


def test_a_flipped_byte_is_noticed(written: Path, tmp_path: Path) -> None:
    content = bytearray(written.read_bytes())
    tensor = torch.load(written)["layer1.0.conv1.weight"].numpy().tobytes()
    for where in (content.index(tensor) + 1000, content.index(b"malignant")):
        damaged = bytearray(content)
        damaged[where] ^= 1
        file = tmp_path / "damaged.pth"
        file.write_bytes(damaged)
        message = f"{file} is damaged: its content doesn't match its checksum; copy it again"
        assert refusal(model_file.load_model_file, file) == message
        assert refusal(load_pretrained, "resnet18", str(file)) == message


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "MODEL_FORMAT", 5)
    model_file.save_model_file(tmp_path / "m.pth", OrderedDict(state_of()), CARD)
    monkeypatch.undo()
    message = f"{tmp_path}/m.pth has model format 5, newer than 4; update overlay"
    assert refusal(model_file.load_model_file, tmp_path / "m.pth") == message
    assert refusal(load_pretrained, "resnet18", str(tmp_path / "m.pth")) == message


def test_a_model_of_contours_of_one_width_in_source_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_file, "MODEL_FORMAT", 3)
    model_file.save_model_file(tmp_path / "m.pth", OrderedDict(state_of()), CARD)
    fill = replace(CARD, overlay=OverlayStyle())
    model_file.save_model_file(tmp_path / "fill.pth", OrderedDict(state_of()), fill)
    monkeypatch.undo()
    assert refusal(model_file.load_model_file, tmp_path / "m.pth").startswith(
        f"{tmp_path}/m.pth was trained on contours of one width in source pixels"
    )
    assert model_file.load_model_file(tmp_path / "fill.pth").card == fill


def test_weights_without_a_card_are_no_model(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(resnet18, tmp_path / "w.pth")
    assert refusal(model_file.load_model_file, tmp_path / "w.pth").startswith(
        f"{tmp_path}/w.pth has 1000 outputs and no class names; "
    )
    assert (
        refusal(model_file.load_model_file, tmp_path / "none.pth")
        == f"no weights at {tmp_path}/none.pth; check the path"
    )
    assert (
        refusal(model_file.load_model_file, tmp_path)
        == f"no weights at {tmp_path}/Resnet_fineTuning.pth; check the path"
    )


def test_a_card_and_options_for_files_without_one_exclude_each_other(written: Path) -> None:
    assert refusal(model_file.load_model_file, written, Legacy(size=128)) == (
        f"{written} has a card that says its size; leave --legacy.size away"
    )


def test_hashes_of_the_images_travel_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file itself, through safetensors, and beside the file where there are many; plain torch reads it still."""
    random = np.random.default_rng(0)
    train, val = (random.integers(0, 2**64, (n, 4), np.uint64) for n in (5, 3))
    hashes = TrainingHashes.create(train, val, 40)
    file, state = tmp_path / "resnet18.pth", state_of()
    model_file.save_model_file(file, OrderedDict(state), CARD, hashes)
    assert set(torch.load(file, weights_only=True)) == set(state)
    model_file.write_safetensors(tmp_path / "m.safetensors", model_file.load_model_file(file))
    monkeypatch.setattr(training_hashes, "MOST_INSIDE", 7)
    model_file.save_model_file(tmp_path / "many.pth", OrderedDict(state), CARD, hashes)
    assert (tmp_path / "many.pth.hashes").read_bytes() == hashes.to_bytes()
    for name in ("many.pth", "resnet18.pth", "m.safetensors"):
        if name != "many.pth":
            monkeypatch.undo()
        loaded = model_file.load_model_file(tmp_path / name)
        assert loaded.card == replace(CARD, hashes=hashes.record)
        assert loaded.hashes is not None
        assert loaded.hashes.to_bytes() == hashes.to_bytes()
        assert loaded.hashes.distance == 40


def test_a_model_goes_through_safetensors(written: Path, tmp_path: Path) -> None:
    before = model_file.load_model_file(written)
    file = tmp_path / "m.safetensors"
    model_file.write_safetensors(file, before)
    after = model_file.load_model_file(file)
    assert after.card == before.card
    assert_equal(after.state, before.state)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert (
        refusal(model_file.load_model_file, file)
        == f"{file} is damaged: its content doesn't match its checksum; copy it again"
    )
    file.write_bytes(content[:-1])
    assert refusal(model_file.load_model_file, file).startswith(f"{file} is no safetensors file that can be read: ")
    assert refusal(model_file.load_model_file, tmp_path / "none.safetensors").startswith("no weights at ")


# Pretrained weights


def test_none_starts_from_random_weights() -> None:
    weights = load_pretrained("resnet18", "none")
    assert weights == Weights(None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = create_network("resnet18", 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    initialise_backbone(network, weights)
    assert_equal(network.state_dict(), before)


def test_a_state_dict_fills_all_but_the_head(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    old = {name: tensor for name, tensor in resnet18.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")  # as before torch 0.4.1
    torch.save(resnet18, tmp_path / "w.pth")
    for name in ("w.pth", "old.pth"):
        weights = load_pretrained("resnet18", str(tmp_path / name))
        assert (weights.mean, weights.std) == (IMAGENET_MEAN, IMAGENET_STD)
        network = create_network("resnet18", 3)
        head = network.state_dict()["fc.weight"].clone()
        initialise_backbone(network, weights)
        assert_equal(without_head(network.state_dict()), without_head(resnet18))
        assert torch.equal(network.state_dict()["fc.weight"], head)


def test_a_model_of_ours_brings_its_own_statistics(written: Path) -> None:
    weights = load_pretrained("resnet18", str(written))
    assert (weights.mean, weights.std) == (CARD.mean, CARD.std)


def test_weights_of_another_architecture_are_refused(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save(resnet18, file)
    assert refusal(load_pretrained, "resnet50", str(file)) == (
        f"the weights at {file} don't fit resnet50 (77 of 265 weights alike): layer1.0.conv1.weight is (64, 64, 3, 3) "
        "there and (64, 64, 1, 1) in the network; choose the architecture that they were made with"
    )


class Payload:
    """Pickled, it runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._trace),)


def test_what_holds_no_weights_is_refused_and_never_run(resnet18: dict[str, Tensor], tmp_path: Path) -> None:
    file, trace = tmp_path / "w.pth", tmp_path / "trace"
    torch.save(resnet18, file)
    whole_file = file.read_bytes()

    def pickled(content: object) -> bytes:
        torch.save(content, file)
        return file.read_bytes()

    contents = [
        b"hello, world\n",
        whole_file[: len(whole_file) // 2],
        pickled(torch.zeros(3)),
        pickled({}),
        pickled({1: torch.zeros(3)}),
    ]
    for content in contents:
        file.write_bytes(content)
        assert refusal(load_pretrained, "resnet18", str(file)) == (
            f"{file} holds no state_dict, or a damaged one; give a file that torch.save made of model.state_dict()"
        )
        assert refusal(model_file.load_model_file, file).startswith(f"{file} holds no state_dict")
    for content in (pickled({"conv1.weight": Payload(trace)}), pickle.dumps(Payload(trace))):
        file.write_bytes(content)
        for message in (refusal(load_pretrained, "resnet18", str(file)), refusal(model_file.load_model_file, file)):
            assert message.startswith(f"{file} holds {os.mkdir.__module__}.mkdir, which is no part of torchvision's ")
    assert not trace.exists()


def test_a_path_that_is_not_there_is_refused(tmp_path: Path, new_bucket: Callable[[], str]) -> None:
    for path in (tmp_path / "w.pth", StoragePath.of(new_bucket()) / "w.pth"):
        assert refusal(load_pretrained, "resnet18", str(path)) == f"no weights at {path}; check the path"
    assert refusal(load_pretrained, "resnet18", str(tmp_path)).startswith(f"the weights at {tmp_path} can't be read: ")


@pytest.fixture
def server(resnet18: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A web server with two files of the same name and a page; what is downloaded is kept in a folder of the test's."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.save(resnet18, tmp_path / "1.pth")
    torch.save({name: tensor + 1 for name, tensor in resnet18.items()}, tmp_path / "2.pth")
    pages = {f"/{n}/model.pth": (tmp_path / f"{n}.pth").read_bytes() for n in (1, 2)} | {"/page": b"<html>Log in"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in pages else 404)
            self.end_headers()
            self.wfile.write(pages.get(self.path, b""))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls_are_told_apart_though_their_files_are_named_alike(server: str, resnet18: dict[str, Tensor]) -> None:
    for number in (1, 2, 1):
        state = load_pretrained("resnet18", f"{server}/{number}/model.pth").state
        assert state is not None
        assert torch.equal(state["conv1.weight"], resnet18["conv1.weight"] + (number - 1))


def test_wrong_urls_are_refused_and_leave_nothing_behind(server: str, tmp_path: Path) -> None:
    assert refusal(load_pretrained, "resnet18", f"{server}/page").startswith(f"{server}/page is a web page, ")
    for url, reason in [
        (f"{server}/none.pth", "HTTP Error 404: Not Found"),
        ("http://127.0.0.1:9/x.pth", "<urlopen error [Errno 111] Connection refused>"),
        ("https://", "<urlopen error no host given>"),
        ("http://a b/", "URL can't contain control characters. 'a b' (found at least ' ')"),
    ]:
        assert refusal(load_pretrained, "resnet18", url) == f"the weights at {url} can't be downloaded: {reason}"
    assert [file for file in (tmp_path / "torch").rglob("*") if file.is_file()] == []


def test_a_failed_download_closes_its_connection(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        urlopen(f"{server}/none.pth")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    for weights in (f"{server}/none.pth", "imagenet"):
        with pytest.raises(RequestError) as error:
            load_pretrained("resnet18", weights)
        response = error.value.__cause__
        assert isinstance(response, HTTPError)
        assert response.closed


def test_imagenet_brings_torchvision_s_statistics(resnet18: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, **options: object) -> dict[str, Tensor]:
        asked.append((url, options))
        return resnet18

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", download)
    weights = load_pretrained("resnet18", "imagenet")
    assert asdict(replace(weights, state=None)) == asdict(Weights(None, IMAGENET_MEAN, IMAGENET_STD))
    assert weights.state is not None
    assert_equal(weights.state, without_head(resnet18))
    options = {"progress": False, "check_hash": True, "weights_only": True}
    assert asked == [(torchvision.models.ResNet18_Weights.DEFAULT.url, options)]


def test_imagenet_without_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    assert refusal(load_pretrained, "resnet18", "imagenet") == (
        "the imagenet weights of resnet18 can't be downloaded (<urlopen error no route to host>); connect to the "
        "network, give a file with --model.weights PATH, or start from random weights with --model.weights none"
    )


def test_a_model_file_in_a_bucket(
    tmp_path: Path, new_bucket: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StoragePath.of(new_bucket()) / "run"
    monkeypatch.setattr(training_hashes, "MOST_INSIDE", 1)  # so that the hashes lie beside it
    random = np.random.default_rng(0)
    train, val = (random.integers(0, 2**64, (n, 4), np.uint64) for n in (3, 2))
    hashes, state = TrainingHashes.create(train, val, 40), state_of("shufflenet_v2_x0_5")
    card = replace(CARD, arch="shufflenet_v2_x0_5", overlay=None)
    for place in (run / model_file.MODEL_FILE, StoragePath.of(tmp_path / model_file.MODEL_FILE)):
        model_file.save_model_file(place, OrderedDict(state), card, hashes)
    local = model_file.load_model_file(tmp_path)
    for place in (run, run / model_file.MODEL_FILE):
        found = model_file.load_model_file(str(place))
        assert found.path == str(run / model_file.MODEL_FILE)
        assert (found.sha256, found.card) == (local.sha256, local.card)
        assert found.hashes is not None
        np.testing.assert_array_equal(found.hashes.train, hashes.train)
        assert_equal(found.state, state)
    image = np.zeros((64, 64, 3), np.uint8)
    there, here = (load_model(path, engine="torch", precision="fp32") for path in (str(run), tmp_path))
    assert there.predict([image]) == here.predict([image])
    with pytest.raises(RequestError, match=r"no weights at s3://.*/nothing\?.*; check the path"):
        model_file.load_model_file(str(run.parent / "nothing"))


def test_pretrained_weights_in_a_bucket(new_bucket: Callable[[], str]) -> None:
    place = StoragePath.of(new_bucket()) / "weights.pth"
    state = state_of("shufflenet_v2_x0_5", 1000)
    with write_atomically(place) as temporary:
        torch.save(state, temporary)
    found = load_pretrained("shufflenet_v2_x0_5", str(place)).state
    assert found is not None
    assert_equal(found, {name: state[name] for name in found})
    with pytest.raises(RequestError, match=r"no weights at s3://.*; check the path"):
        load_pretrained("shufflenet_v2_x0_5", str(place.parent / "other.pth"))
