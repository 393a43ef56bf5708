"""Lengths and self-play of a stored run, and its measurements beside a plan."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from fastsvs.config import TrainJob
from fastsvs.data import encode_prompt, load_tokenizer, messages_of
from fastsvs.errors import UserError
from fastsvs.plan.ledger import GIB, calibrated, total
from fastsvs.plan.sampled import Answers, Sampled, drawn_step
from fastsvs.plan.whole import JobPlan
from fastsvs.policy import read_job
from fastsvs.selfplay import SYNTHESIS, load_template
from fastsvs.stored_run import StoredRun, open_run

STEPS = 3
"""Number of a run's last steps whose samples are read."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric, planned and measured."""

    metric: str
    planned: float
    measured: float
    unit: str

    @property
    def error(self) -> float:
        """Return by which share the plan is over the measurement."""
        return self.planned / self.measured - 1 if self.measured else float("inf")


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


def compare(plan: JobPlan, folder: Path) -> list[Compared]:
    """Return each `time/...` and memory metric of a run, as planned and as the median of its steps after the first.
    Raises UserError for a run without such steps."""
    rows = open_run(folder).metrics()[1:]
    if not rows:
        raise UserError(f"--against {folder}: it has no step after its first")
    planned: dict[str, tuple[float, str]] = {
        **{f"time/{name}": (plan.time.seconds(name), "s") for name in plan.time.phases},
        "time/step": (plan.time.step, "s"),
        "time/checkpoint_write": (plan.time.beside["checkpoint_write"].amount, "s"),
        "system/peak_gpu_memory": (_allocated(plan) / GIB, "GiB"),
    }
    found = {name: [row[name] for row in rows if name in row] for name in planned}
    return [
        Compared(name, planned[name][0], median(values), planned[name][1]) for name, values in found.items() if values
    ]


def _allocated(plan: JobPlan) -> float:
    """Return what torch's allocator holds on the main rank at most."""
    first = plan.memory.ranks[0]
    return max(total([*first.state, *first.update]), total([*first.stays, *first.publish]))


def _families(run: StoredRun, job: TrainJob, step: int) -> Iterator[list[Answers]]:
    """Yield the groups of each problem of a step, its own first. The run did not store prompts: they are made again,
    from questions, and those of synthesis from the response that was their context."""
    tokenizer = load_tokenizer(job.model.tokenizer or job.model.path, job.data)
    template = load_template(job.selfplay.template) if job.selfplay.stage == "svs" else ""

    def prompt(row: Mapping, before: Mapping | None) -> int:
        if row["kind"] == SYNTHESIS and before:
            shown = before["responses"][row.get("parent_sample") or 0]
            chat = [{"role": "user", "content": template.replace("{response}", shown)}]
        else:
            chat = messages_of(row["question"], job.data, "train")
        return len(encode_prompt(tokenizer, chat, job.data.template))

    rows = {row["key"]: row for row in run.samples(step)}
    families: dict[str, list[Answers]] = defaultdict(list)
    for key in sorted(rows, key=lambda key: (key.count("/"), key)):
        row = rows[key]
        length = prompt(row, rows.get(row["parent"]))
        answers = Answers(key, row["kind"], length, tuple(row["tokens"]), row["trained"])
        families[key.split("/")[0]].append(answers)
    yield from families.values()
