"""Settings of a process before torch is loaded, by its job; the commands and the Python interface call it."""

from __future__ import annotations

import os

from fastsvs import config, open_files, rank_log
from fastsvs.accelerator import set_trainer_variables


def prepare_process() -> None:
    """Set the limits of a process and the variables that libraries read when they load, unless the user has set
    them."""
    open_files.raise_limit()
    # Threads that wait for one another must sleep, or busy cores spin instead of working.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def prepare(job: config.TrainJob | config.SftJob | config.SelfJob | config.EvalJob) -> None:
    """Prepare the process, and set the variables that the job's libraries read, unless the user has set them. Raises
    UserError where the job would run out of open files."""
    prepare_process()
    open_files.check()
    rank_log.set_flight_recorder(os.environ)
    if not isinstance(job, config.EvalJob):
        set_trainer_variables(os.environ, shares_memory=isinstance(job, config.TrainJob) and _serves_beside(job))


def _serves_beside(job: config.TrainJob) -> bool:
    """Check whether rollout servers share the trainer's GPUs."""
    return job.rollout.engine != "local" and job.rollout.placement == "colocated"
