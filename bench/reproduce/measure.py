"""Figures from finished runs and evaluations: pass@k, entropy, cost, weights unchanged, and their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from statistics import fmean

import yaml

from bench.experiments.measure import held_out_difference, held_out_figures, weight_changes
from bench.experiments.plan import Evaluated, Run
from bench.experiments.results import difference_rows, point_rows
from bench.experiments.statistics import Difference, by_seed, difference
from bench.report import Row
from bench.reproduce.claims import claims
from bench.reproduce.plan import MODEL, SELF_PLAY, SFT, Reproduction
from bench.reproduce.results import VALID, WEIGHTS, Results, Side
from fastsvs.data import tiny
from fastsvs.files import read_jsonl
from fastsvs.selfplay import VARIANT


def measure(plan: Reproduction, root: Path, note: str | None) -> Results:
    """Return all rows. `note` says what a reader must know of the seconds."""
    rows = [row for each in plan.evaluations(root) for row in _rows(each, each.step, held_out_figures(each))]
    for run in plan.runs(root):
        changes = weight_changes(MODEL, run.checkpoint(plan.compared))
        rows += [*_cost(plan, run, note), *_validity(plan, run)]
        rows += _rows(run, plan.compared, {name: changes[name] for name in WEIGHTS})
    points = Results(tuple(rows))
    wanted = dict.fromkeys(
        (claim.left, claim.right, claim.metric) for self_play in SELF_PLAY for claim in claims(plan, points, self_play)
    )
    found = (difference_rows(*case, _difference(plan, root, points, *case)) for case in wanted)
    return Results((*points.rows, *(row for rows in found for row in rows)))


def _rows(of: Run | Evaluated, step: int, figures: Mapping[str, float], note: str | None = None) -> Iterator[Row]:
    return point_rows(f"seed {of.seed}, step {step}", of.method, figures, note)


def _cost(plan: Reproduction, run: Run, note: str | None) -> Iterator[Row]:
    """Yield the responses that the policy has sampled and the seconds in steps, up to each evaluated step.

    In SFT the responses are the solutions that it was shown.
    """
    shown = _examples_a_step(run) if run.method == SFT else 0
    responses, seconds = run.responses(), list(accumulate(row["time/step"] for row in run.metrics()))
    for step in plan.evaluated(run):
        yield from _rows(run, step, {"responses": responses[step - 1] + shown * step})
        yield from _rows(run, step, {"seconds": seconds[step - 1]}, note)


def _examples_a_step(run: Run) -> int:
    return yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))["run"]["prompts_per_step"]


def _validity(plan: Reproduction, run: Run) -> Iterator[Row]:
    """Yield the share of the variants written since the last evaluated step that have the answer that they inherit."""
    start = 0
    for step in plan.evaluated(run):
        paths = (run.folder / "samples" / f"step_{each}.jsonl" for each in range(start + 1, step + 1))
        variants = [row for path in paths for row in read_jsonl(path) if row["kind"] == VARIANT]
        right = [str(tiny.solve(row["question"])) == row["answer"] for row in variants]
        if right:
            yield from _rows(run, step, {VALID: fmean(right)})
        start = step


def _difference(plan: Reproduction, root: Path, points: Results, left: Side, right: Side, metric: str) -> Difference:
    """Return a difference over problems and seeds where the figure is one of problems, else over seeds."""
    if metric in WEIGHTS:
        values, others = (by_seed(points.curve(side.method, metric)[side.step]) for side in (left, right))
        return difference(values, others)
    evaluations = list(plan.evaluations(root))
    ours, theirs = ([e for e in evaluations if Side(e.method, e.step) == side] for side in (left, right))
    return held_out_difference(ours, theirs, metric)
