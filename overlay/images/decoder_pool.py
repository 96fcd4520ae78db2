"""Pool of decoder processes: runs a function on an untrusted image in a process whose death is an error of that image.

    pool = decoder_pool(ProcessLimits(4 * 2**30, 60))
    pool.run(decode_image, data).value

A process serves one image after the other, so that a death tells which image it was; that image is tried again in
another process. The bytes are read before, by the caller: decoder processes need no credentials, and get none.
"""

import atexit
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from functools import cache
from multiprocessing.connection import Connection
from typing import Generic, NamedTuple, TypeVar, cast

from overlay.config import Limits
from overlay.errors import ErrorKind, ImageError, one_line
from overlay.images.decoder_process import MESSAGE, RENEWED, Answer, ProcessLimits

ATTEMPTS = 3
"""times that an image is tried where its decoder dies: once, and two retries"""
PRELOADED = ("overlay.images.render", "overlay.images.resize", "overlay.images.hashing")
"""modules that all decoder processes have imported"""
DEFAULT_LIMITS = ProcessLimits(Limits.decode_bytes, Limits.decode_seconds)
_LARGE_BYTES = 32 * 2**20  # of which one process takes one at a time, since each may need hundreds of MiB
_SECRET = re.compile("KEY|SECRET|TOKEN|CREDENTIAL|PASSW", re.IGNORECASE)
_Value = TypeVar("_Value")


class Decoded(NamedTuple, Generic[_Value]):
    """Result of a function that ran in a decoder process."""

    value: _Value
    seconds: float
    """CPU time"""


class _Worker(NamedTuple):
    pid: int
    connection: Connection


@cache
def decoder_pool(limits: ProcessLimits) -> "DecoderPool":
    """Return the pool of this process for these limits; the first call starts it, without waiting for its imports."""
    pool = DecoderPool(limits)
    atexit.register(pool.close)
    return pool


def pool_for(limits: Limits) -> "DecoderPool":
    """Return the pool of this process for the options ``limits.decode_bytes`` and ``limits.decode_seconds``."""
    return decoder_pool(ProcessLimits(limits.decode_bytes, limits.decode_seconds))


class DecoderPool:
    """Decoder processes of this process, as many as its threads use at one time."""

    def __init__(self, limits: ProcessLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._large = threading.Lock()
        self._server: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        with self._lock:
            self._running_server()

    def run(self, function: Callable[..., _Value], *arguments: object) -> Decoded[_Value]:
        """Call a function in a decoder process; function, arguments and result are pickled.

        Raises:
            ImageError: the function raised it or any other exception, or it needed more memory or time than the limits,
                or its process died ``ATTEMPTS`` times.
        """
        request = pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)
        deaths = 0
        while True:
            with self._large if len(request) > _LARGE_BYTES else nullcontext():
                answer = self._ask_worker(request, function.__module__)
            if isinstance(answer, Answer):
                break
            if answer == -signal.SIGALRM:
                said = f"more than {self._limits.seconds:g} seconds to decode (limits.decode_seconds)"
                raise ImageError(said, ErrorKind.TOO_LARGE)
            deaths += answer != RENEWED
            if deaths == ATTEMPTS:
                raise ImageError(f"the decoder crashed: {_name_code(answer)}", ErrorKind.CRASHED)
        if isinstance(answer.error, MemoryError):
            said = f"more than {self._limits.bytes / 2**30:g} GiB of memory to decode (limits.decode_bytes)"
            raise ImageError(said, ErrorKind.TOO_LARGE)
        if isinstance(answer.error, ImageError):
            raise answer.error
        if answer.error is not None:
            said = f"the decoder failed: {type(answer.error).__name__}: {one_line(answer.error)}"
            raise ImageError(said, ErrorKind.CRASHED) from answer.error
        return Decoded(cast(_Value, answer.value), answer.seconds)

    def close(self) -> None:
        """End all processes; where a thread waits for one of them, `run` starts another."""
        with self._lock:
            for worker in self._busy:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
            for worker in self._idle:
                worker.connection.close()
            self._idle.clear()
            if self._server is not None:
                process, control = self._server
                control.close()
                process.wait()
                self._server = None

    def _ask_worker(self, request: bytes, module: str) -> Answer | int:
        """Return the answer of a worker to a request, or its exit code where it ended; negative for a signal."""
        with self._lock:
            worker = self._idle.pop() if self._idle else self._fork(module)
            self._busy.add(worker)
        answer: Answer | None = None
        try:
            worker.connection.send_bytes(request)
            answer = pickle.loads(worker.connection.recv_bytes())  # from our own process
        except (EOFError, OSError):
            pass
        finally:  # also after an interruption: its answer must not be taken for that to another request
            with self._lock:
                self._busy.remove(worker)
                if answer is not None:
                    self._idle.append(worker)
                else:
                    code = self._bury(worker)
        return code if answer is None else answer

    def _fork(self, module: str) -> _Worker:
        """Fork a worker, with a module imported.

        Raises:
            RuntimeError: the fork server ends again and again.
        """
        for _ in range(ATTEMPTS):
            _, control = self._running_server()
            ours, theirs = socket.socketpair()
            with theirs, suppress(OSError):
                socket.send_fds(control, [module.encode()], [theirs.fileno()])
                if (pid := _receive(control)) is not None:
                    return _Worker(pid, Connection(ours.detach()))
            ours.close()
            self._forget_server()
        raise RuntimeError("the decoder processes can't be started: their server ends at once")

    def _bury(self, worker: _Worker) -> int:
        """Return the exit code of a worker, which is killed where it has not ended."""
        worker.connection.close()
        with suppress(OSError):
            if self._server is not None:
                os.kill(worker.pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
                _, control = self._server
                control.sendall(MESSAGE.pack(worker.pid))
                if (code := _receive(control)) is not None:
                    return code
        self._forget_server()
        return -signal.SIGKILL

    def _running_server(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._server is None:
            control, theirs = socket.socketpair()
            path = os.pathsep.join(entry for entry in sys.path if entry)
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            words = [str(theirs.fileno()), str(self._limits.bytes), str(self._limits.seconds), *PRELOADED]
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", "overlay.images.decoder_process", *words],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_without_secrets(os.environ) | threads | {"PYTHONPATH": path},
                )
            self._server = process, control
        return self._server

    def _forget_server(self) -> None:
        """Forget a server that has died; its workers end by themselves when their connections close."""
        if self._server is not None:
            process, control = self._server
            control.close()
            process.kill()
            process.wait()
            self._server = None


def _without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not _SECRET.search(name)}


def _receive(control: socket.socket) -> int | None:
    message = control.recv(MESSAGE.size, socket.MSG_WAITALL)
    return int(MESSAGE.unpack(message)[0]) if len(message) == MESSAGE.size else None


def _name_code(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
