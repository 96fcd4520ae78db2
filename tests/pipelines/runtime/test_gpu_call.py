import subprocess
import sys

# A Ray of its own, with an invented GPU: the tests' session has none.
PROGRAM = """
import os
import ray
from pipelines.runtime.gpu_call import call_on_gpu

def describe(number):
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], number

ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)
calls = [call_on_gpu(describe, 7), call_on_gpu(describe, ray.put(8))]
print(*(gpu for _, gpu, _ in calls), *(number for _, _, number in calls), len({pid for pid, _, _ in calls}))
"""


def test_each_call_has_a_gpu_and_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0", "7", "8", "2"]
