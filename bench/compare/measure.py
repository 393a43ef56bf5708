"""Rows from finished runs and evaluations: what each method reached, and its differences to RLVR."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean

from bench.compare.plan import REFERENCES, UNTIMED, Comparison, Timed
from bench.compare.results import Results
from bench.experiments.measure import held_out_difference, held_out_figures, weight_changes
from bench.experiments.plan import Evaluated, Run
from bench.experiments.results import difference_rows, point_rows
from bench.report import Row

SOLVE_RATE = "training solve rate"


def measure(plan: Comparison, root: Path, note: str | None) -> Results:
    """Return all rows. `note` says what a reader must know of the times."""
    rows = [row for each in plan.evaluations(root) for row in _rows(each, held_out_figures(each))]
    for run in plan.runs(root):
        rows += [*_rows(run, _costs(plan, run)), *_rows(run, _weights(plan, run)), *_solve_rates(plan, run)]
    rows += [row for timed in plan.timings(root) for row in _rows(timed, _times(timed), note)]
    return Results((*rows, *_differences(plan, root)))


def _rows(of: Run | Evaluated, figures: Mapping[str, float], note: str | None = None) -> Iterator[Row]:
    return point_rows(f"seed {of.seed}", of.method, figures, note)


def _costs(plan: Comparison, run: Run) -> dict[str, float]:
    """Return the steps and responses up to the checkpoint that is evaluated."""
    step = plan.step_of_budget(run)
    return {"steps": step, "responses": run.responses()[step - 1]}


def _weights(plan: Comparison, run: Run) -> dict[str, float]:
    """Return the shares of the base's weights that training has left unchanged, exactly and in bf16."""
    changes = weight_changes(plan.base(run.root), run.checkpoint(plan.step_of_budget(run)))
    return {metric: changes[metric] for metric in ("sparsity/exact", "sparsity/bf16")}


def _times(timed: Timed) -> dict[str, float]:
    """Return the time of whole steps per sampled response, learned from or not, and the share of credit in it."""
    rows, sampled = timed.metrics()[UNTIMED:], timed.responses()
    seconds = sum(row["time/step"] for row in rows)
    return {
        "milliseconds": 1000 * seconds / (sampled[-1] - sampled[UNTIMED - 1]),
        "credit": sum(row["time/credit"] for row in rows) / seconds,
    }


def _solve_rates(plan: Comparison, run: Run) -> Iterator[Row]:
    """Yield the solve rate of original problems, as the mean over the steps between two checkpoints.

    It is measured also for methods whose policy never learns of it.
    """
    rates, responses = [row["solve_rate/original"] for row in run.metrics()], run.responses()
    for end in range(plan.every, len(rates) + 1, plan.every):
        case = f"seed {run.seed}, {responses[end - 1]} responses"
        yield from point_rows(case, run.method, {SOLVE_RATE: fmean(rates[end - plan.every : end])})


def _differences(plan: Comparison, root: Path) -> Iterator[Row]:
    """Yield the differences to RLVR, and RLVR's to the base, with the ends of their 95% intervals."""
    evaluations = list(plan.evaluations(root))
    for method, other in REFERENCES.items():
        ours, theirs = ([e for e in evaluations if e.method == side] for side in (method, other))
        for metric in ("pass@1", f"pass@{plan.samples}", "entropy"):
            yield from difference_rows(method, other, metric, held_out_difference(ours, theirs, metric))
