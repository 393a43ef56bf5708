"""Seconds in which new weights go from the policy to the engine."""

from __future__ import annotations

from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan.buffers import stage_buffers
from fastsvs.plan.job import MemoryPlan
from fastsvs.plan.layout import Cluster
from fastsvs.plan.ledger import Line, calibrated
from fastsvs.plan.links import Machine, stage_span
from fastsvs.plan.memory import sync_bytes
from fastsvs.plan.shards import busiest_bytes, sends_shards

IPC_RESULTS = "bench/results/sync-ipc-nvidia-h200-2026-11-26.json"
IPC_RATE = 32.5e9
PAUSE_RESULTS = "bench/results/whole-run-works-h200-nvidia-h200-2026-11-27.json"
PAUSE_SECONDS = 0.29
"""Time in which servers wake or pause and go on, whatever the model (PAUSE_RESULTS: weights of 3 MB)."""


def publish_time(
    architecture: Architecture, job: TrainJob, cluster: Cluster, machine: Machine, memory: MemoryPlan
) -> list[Line]:
    """Return the lines of `time/sync`."""
    hardware = machine.hardware
    nbytes = sync_bytes(architecture, job.policy)
    if job.rollout.engine == "local":
        return [Line("weights to the engine", nbytes / hardware.hbm.value, hardware.hbm.basis)]
    servers = cluster.servers(job.rollout, hardware.kind)
    if sends_shards(job, memory.layout, servers, nbytes):
        through = busiest_bytes(nbytes, memory.layout.ranks, servers, job.rollout.server.tensor_parallel)
        sent = machine.message("weights from shard to shard", "point-to-point", through, 2, _apart(machine))
    else:
        sent = _one_sender(job, machine, memory, nbytes)
    pause = Line("servers pause and go on", PAUSE_SECONDS, calibrated(PAUSE_RESULTS))
    return [sent, pause, *_offloads(architecture, job, machine, memory)]


def _one_sender(job: TrainJob, machine: Machine, memory: MemoryPlan, nbytes: float) -> Line:
    """Return the time of a broadcast. Buckets are gathered from the policy's ranks while the one before is on its way,
    so the slower of the two ways counts."""
    layout = memory.layout
    bucket = min(job.sync.bucket_bytes, nbytes)
    gathered = machine.message("", "all-gather", bucket, layout.tensor, layout.tensor).amount
    collected = machine.message("", "point-to-point", bucket, 2, stage_span(layout)).amount
    collected *= (layout.pipeline - 1) / layout.pipeline
    if memory.beside and machine.hardware.kind == "cuda":
        sent = Line("weights to the servers", bucket / IPC_RATE, calibrated(IPC_RESULTS))
    else:
        sent = machine.message("weights to the servers", "broadcast", bucket, 2, _apart(machine))
    slower = max(sent.amount, gathered + collected)
    return Line(sent.name, slower * nbytes / bucket, sent.basis, between=True)


def _apart(machine: Machine) -> int:
    """Return among how many successive ranks trainer and servers lie: on different nodes, but for CPUs."""
    return 1 if machine.hardware.kind == "cpu" else machine.gpus + 1


def _offloads(architecture: Architecture, job: TrainJob, machine: Machine, memory: MemoryPlan) -> list[Line]:
    if job.policy.offload == "none":
        return []
    stage = stage_buffers(architecture, memory.layout, 0)
    moved = stage.state + (stage.weights if job.policy.offload == "all" else 0)
    host = machine.hardware.host
    return [Line("offload and return", 2 * moved / host.value, host.basis)]
