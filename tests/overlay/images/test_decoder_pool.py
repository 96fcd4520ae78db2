import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from overlay.errors import ErrorKind, ImageError
from overlay.images.decoder_pool import ATTEMPTS, DecoderPool
from overlay.images.decoder_process import ProcessLimits

GIB = 2**30
_kept: list[bytearray] = []


def add(left: int, right: int) -> int:
    return left + right


def process() -> int:
    return os.getpid()


def secrets() -> list[str]:
    return [name for name in os.environ if name.startswith(("AWS_", "WANDB_"))]


def keep_memory() -> int:
    _kept.append(bytearray(GIB + GIB // 4))
    return os.getpid()


def take_memory() -> None:
    bytearray(8 * GIB)


def wait() -> None:
    time.sleep(1000)


def die(log: Path, survives: int = -1) -> int:
    """End by SIGSEGV, unless ``survives`` attempts have died before; return the number of attempts."""
    with log.open("a") as file:
        file.write("x")
    if (attempts := len(log.read_text())) <= survives or survives < 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    return attempts


def refuse() -> None:
    raise ImageError("too many pixels", ErrorKind.TOO_LARGE)


def fail() -> None:
    raise OSError(5, "odd\nerror")


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(ProcessLimits(2 * GIB, 60))
    yield pool
    pool.close()


def reason_of(pool: DecoderPool, function: Callable[..., object], *arguments: object) -> tuple[str, str]:
    with pytest.raises(ImageError) as caught:
        pool.run(function, *arguments)
    return str(caught.value), caught.value.kind.value


def test_a_call_returns_its_result_and_processor_time(pool: DecoderPool) -> None:
    found = pool.run(add, 2, 3)
    assert found.value == 5
    assert found.seconds >= 0
    assert pool.run(process).value == pool.run(process).value != os.getpid()


def test_decoders_get_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    pool = DecoderPool(ProcessLimits(GIB, 60))
    assert "AWS_REGION" in pool.run(secrets).value
    assert not {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY"} & set(
        pool.run(secrets).value
    )
    pool.close()


def test_a_death_is_an_error_of_its_image_after_two_retries(pool: DecoderPool, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert reason_of(pool, die, log) == ("the decoder crashed: SIGSEGV", "crashed")
    assert len(log.read_text()) == ATTEMPTS == 3
    assert pool.run(add, 2, 3).value == 5


def test_what_dies_once_is_tried_again(pool: DecoderPool, tmp_path: Path) -> None:
    assert pool.run(die, tmp_path / "log", 2).value == 3


def test_limits_on_memory_and_time(pool: DecoderPool) -> None:
    said = "more than 2 GiB of memory to decode (limits.decode_bytes)"
    assert reason_of(pool, take_memory) == (said, "too_large")
    quick = DecoderPool(ProcessLimits(GIB, 0.2))
    said = "more than 0.2 seconds to decode (limits.decode_seconds)"
    assert reason_of(quick, wait) == (said, "too_large")
    quick.close()


def test_errors_keep_their_kind_and_others_are_crashes(pool: DecoderPool) -> None:
    assert reason_of(pool, refuse) == ("too many pixels", "too_large")
    assert reason_of(pool, fail) == ("the decoder failed: OSError: [Errno 5] odd error", "crashed")


def test_a_process_that_holds_memory_is_replaced(pool: DecoderPool) -> None:
    first = pool.run(keep_memory).value
    assert pool.run(process).value != first


def test_the_fork_server_is_started_again(pool: DecoderPool) -> None:
    assert pool.run(add, 1, 1).value == 2
    assert pool._server is not None
    pool._server[0].kill()
    pool._server[0].wait()
    assert pool.run(add, 2, 3).value == 5
    pool.close()
    assert pool.run(add, 2, 3).value == 5
