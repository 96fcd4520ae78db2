"""Options of `overlay submit`."""

from dataclasses import dataclass

from overlay.config.common import check


@dataclass(frozen=True)
class Submit:
    """Submit a verb as a job to a Ray cluster and follow its log; Ctrl-C leaves the job running.

    Paths are those of the cluster, so they must be absolute, in a folder that its nodes share. The token of a cluster
    with authentication comes from RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    """

    address: str
    """address of the cluster's job server, for example http://head:8265"""
    job: list[str]
    """verb and arguments, after --; paths are those of the cluster, so they must be absolute and shared"""

    def __post_init__(self) -> None:
        check(len(self.job) > 0, "no job given; write the verb and its arguments after --")
