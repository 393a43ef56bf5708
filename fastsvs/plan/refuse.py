"""Findings of what will not work: each says whether it rests on exact and calibrated amounts, or on assumed ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from fastsvs import open_files
from fastsvs.architecture import Architecture
from fastsvs.config import TrainJob
from fastsvs.errors import UserError
from fastsvs.plan.job import MemoryPlan, plan_memory
from fastsvs.plan.layout import Cluster, DeviceKind
from fastsvs.plan.ledger import GIB, Line, certain, total
from fastsvs.plan.machine import StepTokens
from fastsvs.plan.step import TimePlan

CLIENT_SHARE = 0.5
DIAGNOSTICS_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that will not work, or may not."""

    certain: bool
    """True where exact amounts alone are too much; False where others are part of it."""
    text: str


@dataclass(frozen=True, slots=True)
class Present:
    """The machine that a job is about to begin on."""

    kind: DeviceKind
    memory: float
    """Bytes of a GPU; of no meaning on a CPU."""
    host: float
    """Bytes of memory."""


def check_fits(architecture: Architecture, job: TrainJob, cluster: Cluster, present: Present) -> list[str]:
    """Return warnings about what may not fit. Raises UserError for what cannot: where exact amounts alone are too much
    for the machine that is there. How long responses will be is not known here, and counts as nothing."""
    plan = plan_memory(architecture, job, cluster, present, StepTokens())
    return refuse(memory_findings(job, plan, present.host))


def memory_findings(job: TrainJob, plan: MemoryPlan, host: float | None = None) -> list[Finding]:
    """Return what does not fit: devices, the engine's cache, and where it is known the `host` memory of a node, in
    bytes. The room for checkpoints is checked by the run itself, which knows those that are there."""
    cures = {
        "update": "more policy.tensor_parallel, context_parallel or pipeline_parallel, more nodes, "
        "policy.recompute=full, or fewer policy.tokens_per_micro_batch",
        "publish": "a smaller sync.bucket_bytes, or more policy.tensor_parallel",
        "rollout": "a smaller gpu-memory-utilization in rollout.server.arguments, or policy.offload=optimizer",
        "serving": "more rollout.server.tensor_parallel, or a smaller gpu-memory-utilization",
    }
    found = [
        finding
        for moment, lines in (plan.moments.items() if plan.layout.device == "cuda" else ())
        for finding in _over(f"a GPU during {moment}", _held(lines), plan.capacity, cures[moment])
    ]
    found += _cache_findings(job, plan)
    if host is not None:
        cure = "policy.offload=none, sync.sparse=never, or fewer processes a node"
        found += _over("a node's host memory", plan.host, host, cure)
    return found


def time_findings(job: TrainJob, plan: TimePlan) -> list[Finding]:
    """Return what would hold up a step."""
    found = []
    generation = plan.seconds("rollout")
    client = plan.beside["client"].amount
    if job.policy.fp8 is not None:
        found.append(Finding(False, f"policy.fp8={job.policy.fp8} has not been measured: products count as bf16"))
    if job.rollout.engine != "local" and generation and client > CLIENT_SHARE * generation:
        found.append(
            Finding(
                False,
                f"each client process needs {client / generation:.0%} of a core, over half of one: raise "
                "rollout.client_processes",
            )
        )
    if plan.seconds("diagnostics") > DIAGNOSTICS_SHARE * plan.step:
        share = plan.seconds("diagnostics") / plan.step
        found.append(Finding(False, f"diagnostics take {share:.0%} of a step, over 5%: raise dynamics.every"))
    write, every = plan.beside["checkpoint_write"].amount, job.run.save_every * plan.step
    if write > every:
        found.append(
            Finding(
                False,
                f"a checkpoint is written in {write:,.0f} s, and {job.run.save_every} steps take {every:,.0f} s: steps "
                "will wait; raise run.save_every",
            )
        )
    return found


def connection_findings(job: TrainJob, servers: int) -> list[Finding]:
    """Return whether a client process may have a connection for each sequence of its share of the servers, by the limit
    of the machine that plans."""
    need = ceil(servers / job.rollout.client_processes) * job.rollout.max_sequences + open_files.RESERVED
    if not servers or need <= open_files.limit():
        return []
    text = (
        f"a client process needs {need:,} open files, and one may open {open_files.limit():,} here: raise the hard "
        "limit on the cluster (docs/rollout.md), or rollout.client_processes"
    )
    return [Finding(False, text)]


def refuse(findings: Sequence[Finding]) -> list[str]:
    """Return the findings that are not certain, as warnings. Raises UserError with those that are."""
    impossible = [finding.text for finding in findings if finding.certain]
    if impossible:
        raise UserError("\n".join(impossible))
    return [finding.text for finding in findings]


def _held(lines: Sequence[Line]) -> list[Line]:
    """Return the lines without the engine's cache where it takes what is left, which is less than nothing when the
    model alone is too large."""
    return [line for line in lines if line.amount > 0]


def _over(what: str, lines: Sequence[Line], capacity: float, cure: str) -> Iterator[Finding]:
    need, known = total(lines), certain(lines)
    if need > capacity:
        most = sorted(lines, key=lambda line: -line.amount)[:3]
        parts = ", ".join(f"{line.name} {line.amount / GIB:,.1f}" for line in most)
        yield Finding(
            known > capacity,
            f"{what} takes {need / GIB:,.1f} GiB of {capacity / GIB:,.1f} ({parts}; "
            f"{known / GIB:,.1f} of it exact): {cure}",
        )


def _cache_findings(job: TrainJob, plan: MemoryPlan) -> Iterator[Finding]:
    engine = plan.engine
    if engine is None or job.rollout.engine == "local":
        return
    longest = job.data.max_prompt_tokens + job.rollout.max_response_tokens
    if engine.cache_tokens < longest:
        yield Finding(
            False,
            f"a server's cache holds {engine.cache_tokens:,.0f} tokens, and one sequence may have {longest:,}: raise "
            "rollout.server.tensor_parallel or gpu-memory-utilization",
        )
    elif engine.wanted_tokens > engine.cache_tokens:
        held = int(engine.cache_tokens / engine.wanted_tokens * job.rollout.max_sequences)
        yield Finding(
            False,
            f"rollout.max_sequences={job.rollout.max_sequences} sequences want {engine.wanted_tokens:,.0f} tokens of "
            f"cache at their mean context, and a server holds {engine.cache_tokens:,.0f}: about {held} run at once",
        )
