import shutil
import subprocess
import sys
from pathlib import Path

import overlay
from overlay.version import code_fingerprint

ROOT = Path(__file__).parents[2]


def fingerprint_in(folder: Path) -> str:
    """Run a copy of the code that was never installed."""
    for package in ("overlay", "pipelines", "cluster"):
        if not (folder / package).exists():
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    program = "from overlay.version import code_fingerprint; print(code_fingerprint())"
    words = [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {program}"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def test_the_fingerprint_follows_the_code_and_not_its_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert fingerprint_in(first) == fingerprint_in(second) == code_fingerprint()
    with (second / "pipelines" / "demo.py").open("a") as file:
        file.write("\n# changed\n")
    assert fingerprint_in(second) != code_fingerprint()


def test_the_version_is_known_without_an_installation(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "overlay", tmp_path / "overlay", ignore=shutil.ignore_patterns("__pycache__"))
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import overlay; print(overlay.__version__)"
    found = subprocess.run([sys.executable, "-S", "-c", program], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == overlay.__version__ == "0.1.0"
