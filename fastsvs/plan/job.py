"""Needs of a training job: memory of devices and hosts, and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.plan.activations import largest_row
from fastsvs.plan.engine import EngineMemory, local_memory, server_memory
from fastsvs.plan.layout import Cluster, DeviceKind, Layout, layout_of
from fastsvs.plan.ledger import Line, total
from fastsvs.plan.machine import StepTokens, disk_lines, host_lines
from fastsvs.plan.memory import DeviceMemory, device_memory, publish_lines, sync_bytes
from fastsvs.plan.shards import kept_lines


class Device(Protocol):
    """A device as far as memory goes."""

    @property
    def kind(self) -> DeviceKind: ...

    @property
    def memory(self) -> float:
        """Return its bytes."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Memory and disk of a job."""

    layout: Layout
    ranks: Sequence[DeviceMemory]
    """Memory of a rank of each pipeline stage."""
    engine: EngineMemory | None
    """Memory of the engine on one of its devices; None for servers that somebody else runs, and for a plug-in."""
    beside: bool
    """True where the engine is on the trainer's devices."""
    capacity: float
    """Bytes of a device."""
    host: Sequence[Line]
    disk: Sequence[Line]

    @property
    def moments(self) -> dict[str, Sequence[Line]]:
        """Return the lines of the fullest rank at each moment at which a device may be too small, by its name."""
        learning = _fullest([rank.learning for rank in self.ranks])
        publishing = _fullest([rank.publishing for rank in self.ranks])
        if self.engine is None:
            return {"update": learning, "publish": publishing}
        if not self.beside:
            return {"update": learning, "publish": publishing, "serving": self.engine.lines}
        return {"update": [*learning, *self.engine.asleep], "rollout": [*publishing, *self.engine.lines]}


def plan_memory(
    architecture: Architecture, job: TrainJob, cluster: Cluster, device: Device, step: StepTokens
) -> MemoryPlan:
    """Return the memory that a job takes. The layout must suit the model and the cluster, as `check_layout` says."""
    trainers = cluster.trainers(job.rollout)
    layout = layout_of(job.policy, trainers, device.kind)
    shares = device.kind == "cpu" and job.policy.shared_prefix is not False
    ranks = device_memory(
        architecture,
        job.policy,
        layout,
        largest_row(job.policy, layout, shares_prompts=shares),
        micro_batches=layout.pipeline,
        publish=lambda stage: publish_lines(architecture, job, layout, stage),
        frozen=1 if job.algorithm.kl_coefficient and not architecture.lora else 0,
    )
    servers = cluster.servers(job.rollout, device.kind)
    nodes_with_servers = cluster.serving(job.rollout) or cluster.nodes
    beside = job.rollout.engine == "local" or job.rollout.placement == "colocated"
    here = servers // nodes_with_servers if beside else 0
    ranks_here = min(cluster.gpus, trainers)
    kept = kept_lines(job, layout, servers, sync_bytes(architecture, job.policy), ranks_here, here)
    return MemoryPlan(
        layout=layout,
        ranks=ranks,
        engine=_engine_memory(architecture, job, layout, device, step),
        beside=beside,
        capacity=device.memory,
        host=[*host_lines(architecture, job, layout, ranks_here, here, step), *kept],
        disk=disk_lines(architecture, job.run, step),
    )


def _engine_memory(
    architecture: Architecture, job: TrainJob, layout: Layout, device: Device, step: StepTokens
) -> EngineMemory | None:
    if job.rollout.engine == "local":
        longest = job.data.max_prompt_tokens + job.rollout.max_response_tokens
        return local_memory(architecture, job.rollout, layout, step.samples / layout.ranks, longest)
    if job.rollout.engine != "vllm" or job.rollout.placement == "external":
        return None
    return server_memory(architecture, job.rollout, layout, device.memory, step.mean_context)


def _fullest(moments: Sequence[Sequence[Line]]) -> Sequence[Line]:
    return max(moments, key=total)
