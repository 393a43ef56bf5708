"""Figures from finished runs and evaluations: pass@k, entropy, cost, what is memorised and written, differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import yaml

from bench.experiments.measure import by_problem, held_out_figures
from bench.experiments.plan import BASE, HELD_OUT, Evaluated, Run
from bench.experiments.results import BOOTSTRAP, difference_rows, point_rows
from bench.experiments.statistics import Figure, chance, difference
from bench.report import Row
from bench.reproduce import plan as plans
from bench.reproduce.claims import claims
from bench.reproduce.plan import SELF_PLAY, SFT, Reproduction
from bench.reproduce.regimes import VALIDATION as VALIDATION_SET
from bench.reproduce.results import GAP, GATES, KEPT, PILOT, TRAIN, VALIDATION, WRITTEN, Results, Side
from bench.reproduce.written import worth, written
from fastsvs.data import tiny
from fastsvs.files import read_jsonl


def measure(plan: Reproduction, root: Path, note: str | None) -> Results:
    """Return all rows. `note` says what a reader must know of the seconds."""
    found = Finished(plan, root)
    rows = [*_gates(plan, root), *_pilot(plan, root)]
    for each in plan.evaluations(root):
        rows += point_rows(_case(each, each.step), each.method, found.figures[each.folder])
    for run in plan.runs(root):
        rows += [*_costs(plan, run, note), *_writing(plan, run)]
        rows += point_rows(f"seed {run.seed}, best", run.method, found.best_figures(run))
    points = Results(tuple(rows))
    wanted = dict.fromkeys((each.left, each.right, each.metric) for each in claims(plan, points))
    return Results((*points.rows, *(row for case in wanted for row in found.difference(*case))))


@dataclass(frozen=True)
class Finished:
    """The evaluations of a finished plan."""

    plan: Reproduction
    root: Path

    @cached_property
    def figures(self) -> dict[Path, dict[str, float]]:
        """Return all figures of every evaluation, by its folder."""
        return {each.folder: _figures(each) for each in self.plan.evaluations(self.root)}

    def best(self, run: Run) -> Evaluated:
        """Return the run's checkpoint with the highest pass@1 on the validation problems, the first of equals."""
        return max(self.plan.of_run(run), key=lambda each: self.figures[each.folder][VALIDATION])

    def best_figures(self, run: Run) -> dict[str, float]:
        best = self.best(run)
        return self.figures[best.folder] | {"steps": best.step, "responses": _responses(run)[best.step - 1]}

    def of(self, side: Side) -> list[Evaluated]:
        """Return one evaluation for each seed."""
        if side.step is None:
            return [self.best(run) for run in self.plan.runs(self.root) if run.method == side.method]
        every = self.plan.evaluations(self.root)
        return [each for each in every if (each.method, each.step) == (side.method, side.step)]

    def difference(self, left: Side, right: Side, metric: str) -> Iterator[Row]:
        """Yield a difference over problems and seeds with its interval and its p-value."""
        values, others = (_terms(self.of(side), metric) for side in (left, right))
        yield from difference_rows(left, right, metric, difference(values, others))
        yield Row(f"{left} - {right}", BOOTSTRAP, f"{metric} p", chance(values, others), "share")


def _terms(evaluations: Sequence[Evaluated], metric: str) -> Figure:
    """Return what the figure adds up from, by seed and problem."""
    if metric != GAP:
        return [np.array([by_problem(each, metric) for each in evaluations])]
    train, held_out = (
        np.array([by_problem(each, "pass@1", name) for each in evaluations]) for name in (plans.TRAIN, HELD_OUT)
    )
    return [train, -held_out]


def _figures(evaluated: Evaluated) -> dict[str, float]:
    figures = held_out_figures(evaluated)
    train, validation = (_one_try(evaluated, name) for name in (plans.TRAIN, VALIDATION_SET))
    return {**figures, TRAIN: train, VALIDATION: validation, GAP: train - figures["pass@1"]}


def _one_try(evaluated: Evaluated, name: str) -> float:
    return json.loads(evaluated.figures(name).read_text(encoding="utf-8"))["pass@1"]["mean"]


def _gates(plan: Reproduction, root: Path) -> Iterator[Row]:
    for name, share in plan.regime.base.figures(root).items():
        yield Row(GATES, BASE, name, share, "share")


def _pilot(plan: Reproduction, root: Path) -> Iterator[Row]:
    for rate, scores in plan.regime.pilot_scores(root).items():
        for step, score in scores.items():
            yield Row(f"{PILOT}, step {step}", f"{rate:g}", VALIDATION, score, "share")


def _costs(plan: Reproduction, run: Run, note: str | None) -> Iterator[Row]:
    """Yield the responses that the policy has sampled and the seconds in steps, up to each evaluated step, and the
    share of the responses since the one before that it learned from."""
    metrics = run.metrics()
    responses, seconds = _responses(run), list(accumulate(row["time/step"] for row in metrics))
    kept, sampled = ([_sum(row, name) for row in metrics] for name in ("kept_samples/", "samples/"))
    for start, step in pairwise([0, *plan.evaluated(run)]):
        yield from point_rows(_case(run, step), run.method, {"responses": responses[step - 1]})
        yield from point_rows(_case(run, step), run.method, {"seconds": seconds[step - 1]}, note)
        if sum(sampled[start:step]):
            share = sum(kept[start:step]) / sum(sampled[start:step])
            yield from point_rows(_case(run, step), run.method, {KEPT: share})


def _responses(run: Run) -> list[int]:
    """Return the responses up to each step; in SFT they are the solutions that it was shown."""
    shown = _examples_a_step(run) if run.method == SFT else 0
    return [sampled + shown * step for step, sampled in enumerate(run.responses(), 1)]


def _examples_a_step(run: Run) -> int:
    return yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))["run"]["prompts_per_step"]


def _writing(plan: Reproduction, run: Run) -> Iterator[Row]:
    """Yield what the variants are worth that were written since the evaluated step before."""
    if run.method not in SELF_PLAY:
        return
    problems = [problem.question for problem in tiny.problems("tiny:train", plan.regime.problems)]
    known, seen = {read for each in problems if (read := tiny.read_problem(each))}, set(problems)
    for start, step in pairwise([0, *plan.evaluated(run)]):
        paths = [run.folder / "samples" / f"step_{each}.jsonl" for each in range(start + 1, step + 1)]
        variants = [variant for path in paths for variant in written(read_jsonl(path))]
        figures = {WRITTEN[name]: share for name, share in worth(variants, known, seen).items()}
        yield from point_rows(_case(run, step), run.method, figures)


def _sum(row: Mapping[str, float], prefix: str) -> int:
    return sum(int(value) for name, value in row.items() if name.startswith(prefix))


def _case(of: Run | Evaluated, step: int) -> str:
    return f"seed {of.seed}, step {step}"
