"""The part of an update of the servers' weights that goes from shard to shard, and the memory that changes take."""

from __future__ import annotations

from fastsvs.config import TrainJob
from fastsvs.plan.layout import Layout
from fastsvs.plan.ledger import EXACT, Line, assumed

PINNED = 1.5
"""Bytes that torch takes to pin one: it rounds each piece of memory up to a power of two."""


def busiest_bytes(nbytes: float, ranks: int, servers: int, tensor_parallel: int) -> float:
    """Return the bytes that go through the busiest card where `ranks` send what they hold of `nbytes` to `servers` of
    `tensor_parallel` workers each: what a rank sends, or what a worker gets. Ranks hold equal parts."""
    return max(servers * nbytes / ranks, nbytes / tensor_parallel)


def sends_shards(job: TrainJob, layout: Layout, servers: int, nbytes: float) -> bool:
    """Return whether every rank sends what it holds of `nbytes` to the servers."""
    shares_gpus = job.rollout.placement == "colocated" and layout.device == "cuda"
    apart = job.rollout.engine == "vllm" and not shares_gpus
    through = busiest_bytes(nbytes, layout.ranks, servers, job.rollout.server.tensor_parallel)
    wanted = job.sync.shard_to_shard and (layout.ranks > 1 or job.sync.sparse != "never")
    return apart and wanted and through <= nbytes


def kept_lines(
    job: TrainJob, layout: Layout, servers: int, nbytes: float, ranks_here: int, servers_here: int
) -> list[Line]:
    """Return the host memory of a node for the weights that went last, which those to come are compared with: what a
    rank sends to one server or several, and what servers got."""
    if job.sync.sparse == "never" or not sends_shards(job, layout, servers, nbytes):
        return []
    sent = min(servers * nbytes / layout.ranks, nbytes / (layout.tensor * layout.pipeline))
    factor, basis = (PINNED, assumed("pinned memory, in powers of two")) if layout.device == "cuda" else (1.0, EXACT)
    return [
        Line("weights as they were sent last", factor * ranks_here * sent, basis),
        Line("weights as servers got them last", factor * servers_here * nbytes, basis),
    ]
