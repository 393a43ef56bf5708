"""A small real model on easy word problems: fine-tuned to their form, then trained with and without self-play."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median

from bench.report import Row
from bench.whole_run.cases import Case, Place
from bench.whole_run.gpu import memory_watch
from bench.whole_run.runs import SMALL, TrainingRun
from fastsvs.errors import UserError
from fastsvs.stored_run import StoredRun

METHODS = {"RLVR": "configs/smollm2_rlvr.yaml", "SvS": "configs/smollm2_svs.yaml"}
BASE = "configs/smollm2_sft.yaml"
PARTS = ("rollout", "update", "sync", "credit", "diagnostics")
"""Parts of a step: `time/...` of its metrics."""
LAST = 5
"""Number of last steps whose mean stands for a run's end."""


@dataclass(frozen=True)
class Sizes:
    base: Sequence[str]
    """Overrides of the fine-tuning."""
    run: Sequence[str]
    """Overrides of the runs."""
    seconds: float
    """Longest run, in seconds; it is stopped then, and its last evaluation counts."""


SIZES = {
    "h200": Sizes([], [], 200),
    "smoke": Sizes(
        [
            "model.path=models/tiny",
            "policy.dtype=fp32",
            "policy.optimizer.warmup_steps=0",
            "run.steps=2",
            "run.prompts_per_step=8",
            "data.limit=64",
        ],
        [
            *SMALL,
            "policy.dtype=fp32",
            "rollout.engine=local",
            "evaluation.every=1",
            "run.steps=2",
        ],
        300,
    ),
}


def cases(place: Place) -> list[Case]:
    sizes, base = SIZES[place.suite], place.work / "smollm2-base"
    model = [] if place.suite == "smoke" else [f"model.path={place.model}"]
    return [
        Case("learns/base", partial(fine_tune, [*model, *sizes.base], base)),
        *(Case(f"learns/{method}", partial(train, sizes, method, base)) for method in METHODS),
    ]


def fine_tune(overrides: Sequence[str], base: Path, folder: Path) -> Iterator[Row]:
    """Fine-tune the base, unless it is there."""
    if base.exists():
        return
    words = [sys.executable, "-m", "fastsvs", "sft", BASE, *overrides, f"export={base}", f"run.dir={folder}"]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UserError(f"the fine-tuning ended with exit status {ended.returncode}: {ended.stderr[-2000:]}")
    rows = StoredRun(folder).metrics()
    yield Row(BASE, "fastsvs", "steps", len(rows), "count")
    yield Row(BASE, "fastsvs", "loss, first step", rows[0]["loss"], "nats/token")
    yield Row(BASE, "fastsvs", "loss, last step", rows[-1]["loss"], "nats/token")
    yield Row(BASE, "fastsvs", "step", median(row["time/step"] for row in rows[1:]), "s")


def train(sizes: Sizes, method: str, base: Path, folder: Path) -> Iterator[Row]:
    """Train with one method: what it learned, what it cost, and where the time went."""
    run = TrainingRun(folder, METHODS[method], [f"model.path={base}", *sizes.run])
    row = partial(Row, METHODS[method], method)
    with memory_watch() as memory:
        run.start()
        yield row("until the first step is done", run.wait_for(run.rows, 240), "s")
        finished = run.finish(sizes.seconds)
    yield row("steps", len(run.rows()), "count", note=None if finished else "stopped when its time was over")
    yield from outcome(run, row)
    if used := [gib for _, gib in memory.samples]:
        yield row("GPU memory in use, most", max(used), "GiB", note="all processes together")


def outcome(run: TrainingRun, row: Callable[..., Row]) -> Iterator[Row]:
    """Yield the rows of what the run's folder holds."""
    rows = run.rows()
    for step, evaluation in sorted(run.evaluations().items()):
        for name in (name for name in evaluation if name.startswith("pass@")):
            value = evaluation[name]
            interval = f"95% interval {value['low']:.4f} to {value['high']:.4f}"
            yield row(f"{name} after {step} steps", value["mean"], "share", note=interval)
    for name, metric, unit in (
        ("entropy", "policy/entropy", "nats/token"),
        ("solve rate of problems", "solve_rate/original", "share"),
        ("solve rate of variants", "solve_rate/variant", "share"),
        ("log-probs of engine and trainer, mean difference", "policy/rollout_mismatch", "nats"),
    ):
        known = [r[metric] for r in rows if metric in r]
        if known:
            yield row(f"{name}, first step", known[0], unit)
            yield row(f"{name}, mean of the last {LAST}", mean(known[-LAST:]), unit)
    later = rows[2:] or rows
    yield row("step", median(r["time/step"] for r in later), "s")
    for part in PARTS:
        share = sum(r.get(f"time/{part}", 0.0) for r in later) / sum(r["time/step"] for r in later)
        yield row(f"share of the step: {part}", share, "share")
    for name in ("response_tokens_per_second", "trained_tokens_per_second"):
        yield row(name.replace("_", " "), median(r[f"throughput/{name}"] for r in later), "tokens/s")
    yield row("responses in a step", median(sum(r[k] for k in r if k.startswith("samples/")) for r in later), "count")
