"""Version of Overlay and fingerprint of its source code, for the cards of models and datasets."""

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from overlay import __version__

_PACKAGES = ("overlay", "pipelines", "cluster")
_SUFFIXES = frozenset({".py", ".j2"})


@cache
def code_fingerprint() -> str:
    """Return the first 16 hexadecimal digits of a sha256 over the source files of this process's own packages.

    A version is the same for every commit between two releases, and a job that was submitted to a cluster runs code
    that was never installed there; the fingerprint distinguishes such programs.
    """
    digest = hashlib.sha256(__version__.encode())
    for package in _PACKAGES:
        spec = find_spec(package)
        for folder in sorted(spec.submodule_search_locations or () if spec else ()):
            root = Path(folder)
            for file in sorted(path for path in root.rglob("*") if path.suffix in _SUFFIXES):
                digest.update(f"{package}/{file.relative_to(root).as_posix()}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
