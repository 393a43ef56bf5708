"""Facts about the machine that a job begins on."""

from __future__ import annotations

import os

import torch

from fastsvs import distributed
from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan import Cluster, Present, check_fits
from fastsvs.rollout import read_nodes


def check_machine(architecture: Architecture, job: TrainJob) -> list[str]:
    """Return warnings about what may not fit the machine that this process runs on. Raises UserError for what
    cannot."""
    nodes = read_nodes(job.rollout)
    return check_fits(architecture, job, Cluster(nodes.count, nodes.ranks_per_node), present())


def present() -> Present:
    """Return the memory of a GPU and of the host."""
    on_gpu = distributed.device().type == "cuda"
    return Present(
        kind="cuda" if on_gpu else "cpu",
        memory=torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
        host=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
