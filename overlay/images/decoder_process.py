"""Decoder process: decodes images that may crash a decoder or exhaust memory, within limits on memory and time.

The parent (`overlay.images.decoder_pool`) starts one fork server, which imports the decoders once and forks a worker
for each connection that it is sent. A worker answers requests until its connection closes. It ends by SIGALRM where a
request takes too long, whatever native code it is in, and the parent learns of any death by the closed connection.
"""

import importlib
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

RENEWED = 75
"""exit code of a worker that ends after a request, since it holds much memory"""
MESSAGE = struct.Struct("<q")
"""message of the fork server's control socket: a process id, or an exit code"""
_LONGEST_NAME = 1024
_RENEWED_BYTES = 2**30


class ProcessLimits(NamedTuple):
    """Limits of one request to a decoder process."""

    bytes: int
    """memory in bytes"""
    seconds: float
    """wall-clock time"""


class Answer(NamedTuple):
    """Answer of a worker to one request."""

    value: Any
    """result of the function; None where it failed"""
    error: Exception | None
    seconds: float
    """CPU time"""


def run_fork_server(control: int, limits: ProcessLimits, modules: Sequence[str]) -> None:
    """Fork a worker for each file descriptor that the control socket receives, and tell the exit code of each pid.

    A message with a descriptor is the name of a module that the worker will need, and is answered by the worker's pid;
    any other is a pid, answered by its exit code. ``modules`` are imported first. What the server has imported, all
    later workers have.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to end
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for name in modules:
        importlib.import_module(name)
    from PIL import Image

    Image.init()
    with socket.socket(fileno=control) as server:
        while True:
            message, descriptors, _, _ = socket.recv_fds(server, _LONGEST_NAME, 1)
            if not message:
                return
            if descriptors:
                with suppress(Exception):  # the worker will fail in the same way, and say it
                    importlib.import_module(message.decode())
                pid = os.fork()
                if pid == 0:
                    server.close()
                    _serve(Connection(descriptors[0]), limits)
                os.close(descriptors[0])
                server.sendall(MESSAGE.pack(pid))
            else:
                _, status = os.waitpid(MESSAGE.unpack(message)[0], 0)
                server.sendall(MESSAGE.pack(os.waitstatus_to_exitcode(status)))


def _serve(connection: Connection, limits: ProcessLimits) -> None:
    """Answer requests, then end this process."""
    code = 0
    try:
        with Path(os.devnull).open("w") as nothing:  # for what C libraries print of damaged files
            for stream in (1, 2):
                os.dup2(nothing.fileno(), stream)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold a patient's image
        before = _address_space()
        if before:
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            most = before + limits.bytes
            resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
        while not code:
            connection.send_bytes(_answer(connection.recv_bytes(), limits))
            if _address_space() > before + _RENEWED_BYTES:
                code = RENEWED
    except (EOFError, OSError):
        pass
    finally:
        os._exit(code)


def _answer(request: bytes, limits: ProcessLimits) -> bytes:
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)
    began = time.process_time()
    try:
        function: Callable[..., object]
        function, arguments = pickle.loads(request)  # from the parent process
        answer = Answer(function(*arguments), None, time.process_time() - began)
    except Exception as error:  # the parent raises it
        answer = Answer(None, error, time.process_time() - began)
    signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        return pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
    except MemoryError as error:
        return pickle.dumps(answer._replace(value=None, error=error), pickle.HIGHEST_PROTOCOL)


def _address_space() -> int:
    """Return the size of this process's address space in bytes; 0 where the system doesn't tell."""
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return 0


if __name__ == "__main__":
    # Under its own name, by which the parent's answers are pickled.
    from overlay.images.decoder_process import ProcessLimits as Limits
    from overlay.images.decoder_process import run_fork_server as run

    run(int(sys.argv[1]), Limits(int(sys.argv[2]), float(sys.argv[3])), sys.argv[4:])
