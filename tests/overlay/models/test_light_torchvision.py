"""The light import of torchvision: no compiler is imported, and what needs it has it."""

import subprocess
import sys

import pytest

_IMPORT = "import sys; from overlay.models.light_torchvision import torchvision; import torch; "


def _printed(code: str) -> str:
    """Run code in a process of its own, after the light import, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", _IMPORT + code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_compiler_is_not_imported_and_networks_compute() -> None:
    compute = "y = torchvision.models.resnet18(weights=None).eval()(torch.zeros(1, 3, 32, 32)); "
    assert _printed(compute + "print('torch._dynamo' in sys.modules, tuple(y.shape))") == "False (1, 1000)"


@pytest.mark.parametrize("before", ["", "import torchvision.ops; "])
def test_the_compiler_is_the_real_one_afterwards(before: str) -> None:
    code = "import torch._dynamo.utils as utils; print(utils.is_compile_supported('cpu'), utils.__file__ is not None)"
    assert _printed(before + code) == "True True"


def test_the_one_question_is_answered_by_the_compiler() -> None:
    asked = "torchvision.ops.roi_align.__globals__['is_compile_supported']('cpu')"
    assert _printed(f"print({asked}, 'torch._dynamo.utils' in sys.modules)") == "True True"
