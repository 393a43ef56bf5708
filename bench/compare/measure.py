"""Rows from finished runs and evaluations: what each method reached, and its differences to RLVR."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean

import numpy as np

from bench.compare.plan import BASE, CONFIGS, RLVR, UNTIMED, Evaluated, Plan, Run, Timed
from bench.report import Row
from bench.reproduce.measure import entropies
from bench.reproduce.statistics import difference, pass_rates
from fastsvs.dynamics import compare, paired
from fastsvs.files import read_jsonl
from fastsvs.policy.stored import open_weights
from fastsvs.verify import Verdict

UNITS = {"entropy": "nats/token", "responses": "responses", "steps": "steps", "milliseconds": "ms"}
"""Units of the metrics that are not shares."""
SOLVE_RATE = "training solve rate"


def measure(plan: Plan, root: Path) -> list[Row]:
    """Return all rows."""
    rows = [row for evaluated in plan.evaluations(root) for row in _evaluation(evaluated)]
    for run in plan.runs(root):
        rows += [*_cost(run), *_weights(run, plan.base(root).result), *_solve_rates(run)]
    rows += [row for timed in plan.timings(root) for row in _speed(timed)]
    return rows + list(_differences(plan, root))


def _row(case: str, method: str, metric: str, value: float) -> Row:
    return Row(case, method, metric, value, UNITS.get(metric, "share"))


def _evaluation(evaluated: Evaluated) -> Iterator[Row]:
    found = json.loads(evaluated.figures.read_text(encoding="utf-8"))
    figures = {f"pass@{k}": found[f"pass@{k}"]["mean"] for k in evaluated.plan.ks}
    for metric, value in (figures | {"entropy": found["entropy_estimate"]}).items():
        yield _row(f"seed {evaluated.seed}", evaluated.method, metric, value)


def _cost(run: Run) -> Iterator[Row]:
    """Yield the steps and responses up to the checkpoint that is evaluated."""
    case, step = f"seed {run.seed}", run.step_of_budget()
    yield _row(case, run.method, "steps", step)
    yield _row(case, run.method, "responses", run.sampled()[step - 1])


def _speed(timed: Timed) -> Iterator[Row]:
    """Yield the time of whole steps per sampled response, learned from or not, and the share of valuation in it."""
    rows = read_jsonl(timed.folder / "metrics.jsonl")[UNTIMED:]
    sampled = timed.sampled()
    seconds = sum(row["time/step"] for row in rows)
    case = f"seed {timed.seed}"
    yield _row(case, timed.method, "milliseconds", 1000 * seconds / (sampled[-1] - sampled[UNTIMED - 1]))
    yield _row(case, timed.method, "valuation", sum(row["time/credit"] for row in rows) / seconds)


def _weights(run: Run, base: Path) -> Iterator[Row]:
    """Yield the shares of the base's weights that training has left unchanged, exactly and in bf16."""
    trained = open_weights(str(run.checkpoint(run.step_of_budget())))
    figures = compare(paired(open_weights(str(base)).hf_weights(), trained.hf_weights())).total().figures()
    for metric in ("sparsity/exact", "sparsity/bf16"):
        yield _row(f"seed {run.seed}", run.method, metric, figures[metric])


def _solve_rates(run: Run) -> Iterator[Row]:
    """Yield the solve rate of original problems, as the mean over the steps between two checkpoints.

    It is measured also for methods whose policy never learns of it.
    """
    rates = [row["solve_rate/original"] for row in read_jsonl(run.folder / "metrics.jsonl")]
    for end in range(run.plan.every, len(rates) + 1, run.plan.every):
        value = fmean(rates[end - run.plan.every : end])
        yield _row(f"seed {run.seed}, {run.sampled()[end - 1]} responses", run.method, SOLVE_RATE, value)


def _differences(plan: Plan, root: Path) -> Iterator[Row]:
    """Yield the differences to RLVR, and RLVR's to the base, with the ends of their 95% intervals."""
    evaluated = list(plan.evaluations(root))

    @cache
    def figures(method: str, metric: str) -> np.ndarray:
        """Return the values of all seeds and problems, [seeds, problems]."""
        return np.array([_by_problem(each, metric) for each in evaluated if each.method == method])

    for method in CONFIGS:
        other = BASE if method == RLVR else RLVR
        for metric in ("pass@1", f"pass@{plan.samples}", "entropy"):
            found = difference(figures(method, metric), figures(other, metric))
            for end, value in (("", found.value), (" low", found.low), (" high", found.high)):
                yield _row(f"{method} - {other}", "bootstrap", metric + end, value)


def _by_problem(evaluated: Evaluated, metric: str) -> list[float]:
    """Return the value of each problem, in one order of the problems."""
    rows = sorted(read_jsonl(evaluated.samples), key=lambda row: row["id"])
    if metric == "entropy":
        return entropies(rows)
    correct = np.array([row["verdicts"].count(Verdict.CORRECT) for row in rows])
    return list(pass_rates(correct, evaluated.plan.samples, int(metric.removeprefix("pass@"))))
