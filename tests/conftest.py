from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts a time, and a machine may be busy.
settings.register_profile("overlay", deadline=None)
settings.load_profile("overlay")


def pytest_configure(config: pytest.Config) -> None:
    # Ray Data warns of defaults that it sets itself.
    config.addinivalue_line("filterwarnings", r"ignore::DeprecationWarning:ray\..*")


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
    from overlay import phantoms

    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, images_per_class=12, seed=0)
    return folder
