"""`fastsvs plan`: what a job takes of given machines, and how long it takes, from config.json alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fastsvs.architecture import load_hf_config, trained_architecture
from fastsvs.config import TrainJob
from fastsvs.plan import (
    Cluster,
    Machines,
    against,
    as_json,
    assumed_step,
    every_layout,
    neighbours,
    plan_job,
    proposals,
    read_hardware,
    show,
    step_of_run,
    table,
)
from fastsvs.speeds import read_speeds

BEST = 10


@dataclass(frozen=True, slots=True)
class Request:
    """Options of the command line beside the job."""

    nodes: int
    gpus: int
    gpu: str
    source: Path | None = None
    """Run whose lengths and self-play are taken."""
    against: Path | None = None
    """Run whose measurements stand beside the plan."""
    speeds: Path | None = None
    """Speeds that `fastsvs doctor --nodes` has measured."""
    sweep: bool = False
    json: bool = False


def plan(job: TrainJob, request: Request) -> tuple[str, bool]:
    """Return the plan as text, and whether the job will work. Raises UserError for what cannot be planned."""
    architecture = trained_architecture(load_hf_config(job.model.path), job.policy)
    speeds = read_speeds(request.speeds) if request.speeds else None
    machines = Machines(Cluster(request.nodes, request.gpus), read_hardware(request.gpu), speeds)
    sampled = step_of_run(job, request.source) if request.source else assumed_step(job)
    if request.sweep:
        found = proposals(architecture, job, machines, sampled, every_layout(job, machines.cluster))
        if request.json:
            return json.dumps([{"changes": p.changes, **as_json(p.plan, [])} for p in found[:BEST]]), bool(found)
        return table(found[:BEST]) if found else "no layout fits these machines", bool(found)
    planned = plan_job(architecture, job, machines, sampled)
    better = proposals(architecture, job, machines, sampled, neighbours(job))
    compared = against(planned, request.against) if request.against else []
    works = not any(finding.certain for finding in planned.findings)
    if request.json:
        return json.dumps(as_json(planned, better, compared), indent=1), works
    head = (
        f"{job.model.path} on {request.nodes} x {request.gpus} {machines.hardware.name}\n"
        f"a step: {sampled.samples:,} responses, {sampled.response_tokens / max(sampled.samples, 1):,.0f} tokens each, "
        f"{sum(len(g.responses) for g in sampled.learned):,} learned from\n"
        f"({sampled.basis.kind}: {sampled.basis.source})"
    )
    return f"{head}\n{show(planned, better, compared)}", works
