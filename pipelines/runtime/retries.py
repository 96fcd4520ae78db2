"""Retries of tasks and actors of Ray Data, whose own default is to retry without bound."""

import warnings

import ray.data  # noqa: F401  # before the filter below: Ray sets one of its own, and the last one set counts first

TASK_RETRIES = 4
"""times that a task is tried again, or an actor restarted, after its process died: enough for lost nodes, which take
results with them that must be made again, and few enough that a batch on which every process dies ends the command"""

# Retries have no named parameter yet; pyproject.toml takes no version of Ray that lacks this one.
warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
