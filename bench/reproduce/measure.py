"""Figures from finished runs and evaluations: pass@k, entropy, cost, weights unchanged, and their differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from bench.report import Row
from bench.reproduce.claims import claims
from bench.reproduce.plan import MODEL, SELF_PLAY, SFT, Evaluated, Plan, Run
from bench.reproduce.results import VALID, WEIGHTS, Results, Side, difference_rows, point_rows
from bench.reproduce.statistics import Difference, by_seed, difference, pass_rates
from fastsvs.data import tiny
from fastsvs.dynamics import compare, paired
from fastsvs.files import read_jsonl
from fastsvs.policy.stored import open_weights
from fastsvs.selfplay import VARIANT
from fastsvs.verify import Verdict

SAMPLED = ("samples/original", "samples/synthesis", "samples/variant")


def measure(plan: Plan, root: Path, note: str | None) -> Results:
    """Return all rows. `note` says what a reader must know of the seconds."""
    points = [row for evaluated in plan.evaluations(root) for row in _evaluation(evaluated)]
    points += [row for run in plan.runs(root) for row in (*_cost(run, note), *_validity(run), *_updates(run))]
    points = Results(tuple(points))
    wanted = dict.fromkeys(
        (claim.left, claim.right, claim.metric) for self_play in SELF_PLAY for claim in claims(plan, points, self_play)
    )
    found = partial(_difference, plan, root, points)
    return Results((*points.rows, *(row for case in wanted for row in difference_rows(*case, found(*case)))))


def _evaluation(evaluated: Evaluated) -> Iterator[Row]:
    """Yield pass@k and entropy on the held-out problems."""
    found = json.loads(evaluated.figures.read_text(encoding="utf-8"))
    figures = {f"pass@{k}": found[f"pass@{k}"]["mean"] for k in evaluated.plan.ks}
    figures["entropy"] = found["entropy_estimate"]
    yield from point_rows(evaluated.method, evaluated.seed, evaluated.step, figures)


def _cost(run: Run, note: str | None) -> Iterator[Row]:
    """Yield the responses that the policy has sampled and the seconds in steps, up to each evaluated step.

    In SFT the responses are the solutions that it was shown.
    """
    metrics = read_jsonl(run.folder / "metrics.jsonl")
    shown = _examples_a_step(run) if run.method == SFT else 0
    responses = list(accumulate(shown + sum(row.get(name, 0) for name in SAMPLED) for row in metrics))
    seconds = list(accumulate(row["time/step"] for row in metrics))
    for step in run.plan.evaluated[run.method]:
        yield from point_rows(run.method, run.seed, step, {"responses": responses[step - 1]})
        yield from point_rows(run.method, run.seed, step, {"seconds": seconds[step - 1]}, note)


def _validity(run: Run) -> Iterator[Row]:
    """Yield the share of the variants written since the last evaluated step that have the answer that they inherit."""
    start = 0
    for step in run.plan.evaluated[run.method]:
        paths = (run.folder / "samples" / f"step_{each}.jsonl" for each in range(start + 1, step + 1))
        variants = [row for path in paths for row in read_jsonl(path) if row["kind"] == VARIANT]
        right = [str(tiny.solve(row["question"])) == row["answer"] for row in variants]
        if right:
            yield from point_rows(run.method, run.seed, step, {VALID: fmean(right)})
        start = step


def _examples_a_step(run: Run) -> int:
    return yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))["run"]["prompts_per_step"]


def _difference(plan: Plan, root: Path, points: Results, left: Side, right: Side, metric: str) -> Difference:
    """Return a difference over problems and seeds where the figure is one of problems, else over seeds."""
    if metric in WEIGHTS:
        return difference(*(by_seed(points.curve(side.method, metric)[side.step]) for side in (left, right)))
    return difference(*(_by_problem(plan, root, side, metric) for side in (left, right)))


def _by_problem(plan: Plan, root: Path, side: Side, metric: str) -> np.ndarray:
    """Return pass@k or entropy as `[seeds, problems]`, the problems in one order; the mean is that of the
    evaluations."""
    evaluations = [e for e in plan.evaluations(root) if (e.method, e.step) == (side.method, side.step)]
    answered = [sorted(read_jsonl(evaluated.samples), key=lambda row: row["id"]) for evaluated in evaluations]
    if metric == "entropy":
        return np.array([entropies(rows) for rows in answered])
    correct = np.array([[row["verdicts"].count(Verdict.CORRECT) for row in rows] for rows in answered])
    return pass_rates(correct, plan.samples, int(metric.removeprefix("pass@")))


def entropies(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return every problem's share of the negative log-probability, per token of the average problem."""
    tokens = fmean(sum(row["tokens"]) for row in rows)
    return [-sum(row["logprobs"]) / tokens for row in rows]


def _updates(run: Run) -> Iterator[Row]:
    """Yield how much of the base's weights has changed at the step at which methods are compared."""
    step = run.plan.compared
    pairs = paired(open_weights(MODEL).hf_weights(), open_weights(run.checkpoint(step)).hf_weights())
    figures = compare(pairs).total().figures()
    yield from point_rows(run.method, run.seed, step, {name: figures[name] for name in WEIGHTS})
