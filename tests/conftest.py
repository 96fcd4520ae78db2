import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

# No test asserts a time, and a machine may be busy.
settings.register_profile("overlay", deadline=None)
settings.load_profile("overlay")


def pytest_configure(config: pytest.Config) -> None:
    # Some tests interrupt their own process; a shell script that runs the tests in the background ignores SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Ray Data warns of defaults that it sets itself.
    config.addinivalue_line("filterwarnings", r"ignore::DeprecationWarning:ray\..*")
    # Retries have no named parameter yet; pyproject.toml takes no version of Ray without this one.
    config.addinivalue_line("filterwarnings", "ignore:`ray_remote_args` is deprecated:DeprecationWarning")
    # A module of torch.fx that folds batch normalisation imports a class that uses it (torch 2.11).
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
    # A thread of Ray Data that is told to end while it still waits ends by an exception of its own.
    thread = r"ignore:Exception in thread pool-\d+/completion-signaler:pytest.PytestUnhandledThreadExceptionWarning"
    config.addinivalue_line("filterwarnings", thread)
    # For the S3 server that the tests start; Ray's workers take them from here.
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    # Converted models are kept there; not in the user's, and not those of another run.
    cache = tempfile.TemporaryDirectory(prefix="overlay-cache-")
    config.add_cleanup(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name


class RayScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no type information
    """Gives all tests of the jobs to one of pytest-xdist's processes, so that there is one Ray session."""

    def _split_scope(self, nodeid: str) -> str:
        return "ray" if nodeid.startswith("tests/pipelines/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> RayScheduling:
    return RayScheduling(config, log)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need one."""
    from cluster import session

    session.connect()
    import ray

    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom set in the layout of BUSI; not to be written to."""
    from overlay.images import phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write_phantoms(folder, images_per_class=12, seed=0)
    return folder


@pytest.fixture(scope="session")
def new_bucket() -> Iterator[Callable[[], str]]:
    """Make a bucket, empty, on an S3 server of this machine; returns its address, as a user would write it."""
    import logging

    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    numbers = count()

    def make() -> str:
        name = f"bucket-{next(numbers)}"
        S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True).create_dir(name)
        return f"s3://{name}?endpoint_override={host}:{port}&scheme=http"

    yield make
    server.stop()
