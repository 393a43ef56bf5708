"""Facts about the machine that a job begins on."""

from __future__ import annotations

import os
import shutil
from math import inf
from pathlib import Path

import torch

from fastsvs import distributed
from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan import Cluster, Present, check_fits
from fastsvs.rollout import read_nodes
from fastsvs.stored_run import RunLayout


def check_machine(architecture: Architecture, job: TrainJob) -> list[str]:
    """Return warnings about what may not fit the machine that this process runs on. Raises UserError for what
    cannot."""
    nodes = read_nodes(job.rollout)
    return check_fits(architecture, job, Cluster(nodes.count, nodes.ranks_per_node), present(job))


def present(job: TrainJob) -> Present:
    """Return the memory of a GPU and of the host, and how far the run's folder may grow."""
    on_gpu = distributed.device().type == "cuda"
    return Present(
        kind="cuda" if on_gpu else "cpu",
        memory=torch.cuda.get_device_properties(0).total_memory if on_gpu else 0,
        host=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk=_room(Path(job.run.dir)),
    )


def _room(folder: Path) -> float:
    """Return the bytes that are free for a run's folder, with those of its checkpoints, which make room for new
    ones."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    usage = shutil.disk_usage(there)
    if not usage.total:  # a file system that does not count
        return inf
    held = sum(file.stat().st_size for file in RunLayout(folder).checkpoints.rglob("*") if file.is_file())
    return usage.free + held
