"""Lengths and self-play of a stored run, and its measurements beside a plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastsvs.config import TrainJob
from fastsvs.data import encode_prompt, load_tokenizer
from fastsvs.errors import UserError
from fastsvs.plan.hosts import VERDICTS
from fastsvs.plan.ledger import GIB, calibrated, total
from fastsvs.plan.machine import PROCESS_BYTES
from fastsvs.plan.sampled import Answers, Sampled, drawn_step
from fastsvs.plan.show import as_json
from fastsvs.plan.whole import JobPlan, Machines
from fastsvs.planned import Compared, Figure, compare
from fastsvs.policy import read_job
from fastsvs.selfplay import chat_of
from fastsvs.stored_run import StoredRun, open_run

STEPS = 3
"""Number of a run's last steps whose samples are read."""


def step_of_run(job: TrainJob, folder: Path) -> Sampled:
    """Return a step of `job` whose problems are drawn from the last steps of the run in `folder`. Raises UserError for
    a folder without samples of reinforcement learning."""
    run, own = open_run(folder), read_job(folder)
    steps = list(run.sample_files())[-STEPS:]
    if not isinstance(own, TrainJob) or not steps:
        raise UserError(f"--from {folder}: no run of `fastsvs train` with samples")
    families = [family for step in steps for family in _families(run, own, step)]
    if not families:
        raise UserError(f"--from {folder}: its last samples are empty")
    return drawn_step(job, families, calibrated(f"{folder}, its last {len(steps)} steps"))


def against(plan: JobPlan, folder: Path) -> list[Compared]:
    """Return the metrics of a run beside their planned values. Raises UserError for a run without steps after its
    first."""
    found = compare(figures(plan), open_run(folder).metrics())
    if not found:
        raise UserError(f"--against {folder}: it has no step after its first")
    return found


def figures(plan: JobPlan) -> dict[str, Figure]:
    """Return what is planned of the metrics of a step, by their names in metrics.jsonl."""
    time, rank = plan.time, plan.memory.ranks[0]
    per_second = time.response_tokens / time.step if time.step else 0.0
    allocated = max(total([*rank.state, *rank.update]), total([*rank.stays, *rank.publish]))
    generation, verdicts = time.seconds("rollout"), [one for one in time.phases["rollout"] if one.name == VERDICTS]
    waiting = max(0.0, generation - time.seconds("update")) if time.overlapped else generation
    played = {"time/rollout": waiting, "time/generation": generation, "time/verification": total(verdicts)}
    found = {
        **{f"time/{name}": Figure(time.seconds(name), "s") for name in time.phases if time.phases[name]},
        **{name: Figure(seconds, "s") for name, seconds in played.items() if generation},
        "time/step": Figure(time.step, "s"),
        "time/checkpoint_write": Figure(time.beside["checkpoint_write"].amount, "s"),
        "throughput/response_tokens_per_second": Figure(per_second, "tokens/s"),
    }
    if plan.memory.layout.device == "cuda":
        return found | {"system/peak_gpu_memory": Figure(allocated / GIB, "GiB")}
    engine = plan.memory.engine.bytes if plan.memory.engine and plan.memory.beside else 0.0
    return found | {"system/peak_memory": Figure((allocated + engine + PROCESS_BYTES["cpu"]) / GIB, "GiB")}


def record(plan: JobPlan, machines: Machines, sampled: Sampled) -> dict[str, Any]:
    """Return a plan as plan.json keeps it: its figures by metric, and all of its lines."""
    return {
        "nodes": machines.cluster.nodes,
        "gpus": machines.cluster.gpus,
        "hardware": machines.hardware.name,
        "lengths": str(sampled.basis),
        "figures": {name: asdict(figure) for name, figure in figures(plan).items()},
        "plan": as_json(plan, []),
    }


def _families(run: StoredRun, job: TrainJob, step: int) -> Iterator[list[Answers]]:
    """Yield the groups of each problem of a step, its own first. The run did not store prompts: they are made again."""
    tokenizer = load_tokenizer(job.model.tokenizer or job.model.path, job.data)
    rows = {row["key"]: row for row in run.samples(step)}
    families: dict[str, list[Answers]] = defaultdict(list)
    for key in sorted(rows, key=lambda key: (key.count("/"), key)):
        row = rows[key]
        length = len(encode_prompt(tokenizer, chat_of(row, rows, job), job.data.template))
        answers = Answers(key, row["kind"], length, tuple(row["tokens"]), row["trained"])
        families[key.split("/")[0]].append(answers)
    yield from families.values()
