"""A whole plan of a job on given machines, and the layouts around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_layout, check_server
from fastsvs.plan.buffers import active_parameters, total_parameters
from fastsvs.plan.hardware import Hardware
from fastsvs.plan.job import MemoryPlan, plan_memory
from fastsvs.plan.layout import Cluster
from fastsvs.plan.links import Machine
from fastsvs.plan.refuse import Finding, connection_findings, memory_findings, time_findings
from fastsvs.plan.sampled import Sampled
from fastsvs.plan.step import TimePlan, plan_time
from fastsvs.speeds import Speeds

FITS = 0.95
"""Share of a device that a layout may take to be proposed: amounts that are assumed need the rest."""


@dataclass(frozen=True, slots=True)
class Machines:
    """The machines that a job is planned for."""

    cluster: Cluster
    hardware: Hardware
    speeds: Speeds | None = None
    """Measured speeds of messages and storage; None takes those of `hardware`."""

    @property
    def machine(self) -> Machine:
        return Machine(self.hardware, self.cluster.gpus, self.speeds)


@dataclass(frozen=True, slots=True)
class JobPlan:
    """The needs of a job, and the reasons why it will not work."""

    memory: MemoryPlan
    time: TimePlan
    findings: Sequence[Finding]
    parameters: int
    """Number of parameters of the model."""
    active_parameters: int
    """Number of parameters that compute a token."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Another layout of a job that fits."""

    changes: dict[str, Any]
    """Keys of the configuration with their values."""
    plan: JobPlan


def plan_job(architecture: Architecture, job: TrainJob, machines: Machines, sampled: Sampled) -> JobPlan:
    """Return the plan of a job. Raises UserError for a layout that does not suit the model or the machines."""
    check_layout(architecture, job.policy, machines.cluster.trainers(job.rollout))
    check_server(architecture, job.rollout)
    memory = plan_memory(architecture, job, machines.cluster, machines.hardware, sampled.tokens)
    time = plan_time(architecture, job, machines.cluster, machines.machine, sampled, memory)
    servers = machines.cluster.servers(job.rollout, machines.hardware.kind)
    found = [*memory_findings(job, memory), *time_findings(job, time), *connection_findings(job, servers)]
    return JobPlan(memory, time, found, total_parameters(architecture), active_parameters(architecture))


def proposals(
    architecture: Architecture, job: TrainJob, machines: Machines, sampled: Sampled, changes: Iterator[dict[str, Any]]
) -> list[Proposal]:
    """Return the changed jobs that fit, the fastest step first."""
    found = []
    for change in changes:
        try:
            other = changed(job, change)
            check_layout(architecture, other.policy, machines.cluster.trainers(other.rollout))
            check_server(architecture, other.rollout)
            memory = plan_memory(architecture, other, machines.cluster, machines.hardware, sampled.tokens)
        except (UserError, ValueError):
            continue  # not a job that could run
        if fits(memory):
            found.append(Proposal(change, plan_job(architecture, other, machines, sampled)))
    return sorted(found, key=lambda proposal: proposal.plan.time.step)


def fits(memory: MemoryPlan) -> bool:
    """Return True where every moment leaves room on a device."""
    moments = memory.moments.values()
    needs = [sum(max(line.amount, 0.0) for line in lines) for lines in moments]
    holds = memory.engine is None or memory.engine.cache_tokens > 0
    return holds and max(needs) <= FITS * memory.capacity


def neighbours(job: TrainJob) -> Iterator[dict[str, Any]]:
    """Yield the changes of one thing: a parallelism twice or half as large, other recomputation, state that leaves."""
    for key, value in (
        ("policy.tensor_parallel", job.policy.tensor_parallel),
        ("policy.pipeline_parallel", job.policy.pipeline_parallel),
        ("policy.context_parallel", job.policy.context_parallel),
        ("rollout.server.tensor_parallel", job.rollout.server.tensor_parallel),
    ):
        if key.startswith("policy") or job.rollout.engine != "local":
            yield {key: 2 * value}
            if value > 1:
                yield {key: value // 2}
    yield from (_recomputation(kind) for kind in ("none", "all_but_attention", "full"))
    if job.rollout.engine != "local" and job.rollout.placement == "colocated":
        yield from ({"policy.offload": what} for what in ("none", "optimizer"))


def every_layout(job: TrainJob, cluster: Cluster) -> Iterator[dict[str, Any]]:
    """Yield the changes that `--sweep` tries: TP x PP x DP x placement x recompute x offload."""
    powers = [2**n for n in range((cluster.nodes * cluster.gpus).bit_length())]
    tensors = [n for n in powers if n <= cluster.gpus]
    for tensor, pipeline, again, place in product(
        tensors, powers, ("none", "all_but_attention", "full"), _placements(job, cluster)
    ):
        sizes = {"policy.tensor_parallel": tensor, "policy.pipeline_parallel": pipeline}
        yield {**sizes, **_recomputation(again), **place}


def changed(job: TrainJob, changes: dict[str, Any]) -> TrainJob:
    """Return the job with other values of some keys. Raises ValueError where they do not go together."""
    content = job.model_dump()
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = content
        for section in sections:
            inner = inner[section]
        inner[name] = value
    return TrainJob.model_validate(content)


def _recomputation(kind: str) -> dict[str, Any]:
    return {"policy.recompute": kind, "policy.recompute_method": "uniform", "policy.recompute_layers": 1}


def _placements(job: TrainJob, cluster: Cluster) -> list[dict[str, Any]]:
    """Return where servers may be: beside the trainer, in turn with it, or on nodes of their own, beside the update
    where the job's log-probs can be corrected for it."""
    if job.rollout.engine == "local" or job.rollout.placement == "external":
        return [{}]
    stale = job.algorithm.rollout_correction != "none" or job.algorithm.old_logprobs == "engine"
    apart = [
        {
            "rollout.placement": "dedicated",
            "rollout.nodes": nodes,
            "policy.offload": "none",
            "train.staleness": int(stale),
        }
        for nodes in range(1, cluster.nodes)
    ]
    together = [
        {"rollout.placement": "colocated", "policy.offload": away, "train.staleness": 0}
        for away in ("none", "optimizer")
    ]
    return [*together, *apart]
