"""Facts about the machine that a job begins on."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fastsvs import distributed
from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.files import write_json
from fastsvs.plan import (
    Cluster,
    Machines,
    Present,
    assumed_step,
    check_fits,
    name_of_device,
    plan_job,
    read_hardware,
    record,
)
from fastsvs.rollout import read_nodes


def check_machine(architecture: Architecture, job: TrainJob) -> list[str]:
    """Return warnings about what may not fit the machine that this process runs on. Raises UserError for what
    cannot."""
    nodes = read_nodes(job.rollout)
    return check_fits(architecture, job, Cluster(nodes.count, nodes.ranks_per_node), present())


def record_plan(architecture: Architecture, job: TrainJob, path: Path) -> None:
    """Write what the job is planned to take of the machines that it runs on, under assumed lengths, to `path`; nothing
    where the hardware table does not know them."""
    gpu = torch.cuda.get_device_name() if distributed.device().type == "cuda" else "cpu"
    if (name := name_of_device(gpu)) is None:
        return
    nodes, sampled = read_nodes(job.rollout), assumed_step(job)
    machines = Machines(Cluster(nodes.count, nodes.ranks_per_node), read_hardware(name))
    write_json(path, record(plan_job(architecture, job, machines, sampled), machines, sampled))


def present() -> Present:
    """Return the memory of a GPU and of the host."""
    on_gpu = distributed.device().type == "cuda"
    return Present(
        kind="cuda" if on_gpu else "cpu",
        memory=torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
        host=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
