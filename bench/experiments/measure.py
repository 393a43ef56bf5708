"""Figures of finished runs and evaluations that every experiment reads: pass@k, entropy, weights, differences."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from bench.experiments.plan import HELD_OUT, Evaluated
from bench.experiments.statistics import Difference, difference, pass_rates
from fastsvs.dynamics import compare, paired
from fastsvs.files import read_jsonl
from fastsvs.policy.stored import open_weights
from fastsvs.verify import Verdict


def held_out_figures(evaluated: Evaluated) -> dict[str, float]:
    """Return pass@k for all k, and the entropy."""
    found = json.loads(evaluated.figures().read_text(encoding="utf-8"))
    return {f"pass@{k}": found[f"pass@{k}"]["mean"] for k in evaluated.plan.ks} | {"entropy": found["entropy_estimate"]}


def held_out_difference(left: Iterable[Evaluated], right: Iterable[Evaluated], metric: str) -> Difference:
    """Return the difference in pass@k or entropy between two sides, each with its evaluations at all seeds."""
    values, others = (np.array([by_problem(each, metric) for each in side]) for side in (left, right))
    return difference([values], [others])


def entropies(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return every problem's share of the negative log-probability, per token of the average problem."""
    tokens = fmean(sum(row["tokens"]) for row in rows)
    return [-sum(row["logprobs"]) / tokens for row in rows]


def weight_changes(base: Path, trained: Path) -> dict[str, float]:
    """Return the figures of `fastsvs.dynamics.compare` over all weights."""
    return compare(paired(open_weights(base).hf_weights(), open_weights(trained).hf_weights())).total().figures()


def by_problem(evaluated: Evaluated, metric: str, name: str = HELD_OUT) -> list[float]:
    """Return pass@k or entropy of each problem of a set, in one order of the problems; the mean is that of the
    evaluation."""
    rows = sorted(read_jsonl(evaluated.samples(name)), key=lambda row: row["id"])
    if metric == "entropy":
        return entropies(rows)
    correct = np.array([row["verdicts"].count(Verdict.CORRECT) for row in rows])
    return list(pass_rates(correct, evaluated.plan.sets[name], int(metric.removeprefix("pass@"))))
