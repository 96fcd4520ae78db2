"""The options of `overlay submit`."""

from dataclasses import dataclass

from overlay.config.common import check


@dataclass(frozen=True)
class Submit:
    """Run a verb as a job on a Ray cluster and follow its log; Ctrl-C leaves the job running.

    Paths are the cluster's, so they must be absolute, in a folder that its nodes share. The token of a cluster that
    wants one comes from RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """

    address: str
    """the cluster's job server, for example http://head:8265"""
    job: list[str]
    """the verb and its arguments, after --; its paths are the cluster's, so they must be absolute and shared"""

    def __post_init__(self) -> None:
        check(len(self.job) > 0, "no job given; write the verb and its arguments after --")
