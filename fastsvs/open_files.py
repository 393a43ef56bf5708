"""The number of files that a process may have open, sockets and pipes among them."""

from __future__ import annotations

import resource
from contextlib import suppress

from fastsvs.config import EvalJob, SelfJob, SftJob, TrainJob
from fastsvs.errors import UserError

LEAST = 256
"""Number of files that a run needs without servers: libraries, data, shards of weights, processes and their pipes."""
PER_SAMPLE = 2
"""Number of connections for each sequence that a server decodes at a time, so that it never waits for the trainer."""


def check_open_files(job: TrainJob | SftJob | SelfJob | EvalJob) -> None:
    """Raise this process's soft limit as far as the job needs. Raises UserError where the system does not allow it."""
    needed = LEAST
    if not isinstance(job, SftJob) and job.rollout.engine == "vllm":
        needed += PER_SAMPLE * job.rollout.max_sequences * (job.rollout.server.count or 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    with suppress(OSError, ValueError):
        wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed < needed:
        raise UserError(
            f"this process may have {allowed} files open at most, and the job needs {needed}: raise the limit with "
            f"`ulimit -n {max(4096, needed)}` before it, or in the settings of the service or container"
        )
