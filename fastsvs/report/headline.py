"""The figures at the head of a report and the time split: pure functions of what a run's files say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastsvs.report.folder import RunFiles
from fastsvs.report.notices import Number, total


@dataclass(frozen=True, slots=True)
class Interval:
    """A share with its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One held-out figure in the first evaluation and in the newest. The newest is None while there is only one."""

    before: Interval
    after: Interval | None


@dataclass(frozen=True, slots=True)
class Headline:
    steps: int
    held_out: dict[str, HeldOut]
    """Held-out figures by name, as `pass@8`."""
    entropy_first: Number
    entropy_last: Number
    learned_from: int | None
    """Number of responses trained on, over all kinds and steps; None for a run that does not count them."""
    seconds: float | None
    """Sum of the steps' times, in seconds."""


def headline(run: RunFiles) -> Headline:
    entropies = [row["policy/entropy"] for row in run.metrics if row.get("policy/entropy") is not None]
    counted = total(value for row in run.metrics for name, value in row.items() if name.startswith("kept_samples/"))
    return Headline(
        steps=run.steps,
        held_out=held_out(run.evaluations),
        entropy_first=entropies[0] if entropies else None,
        entropy_last=entropies[-1] if entropies else None,
        learned_from=None if counted is None else int(counted),
        seconds=total(row.get("time/step") for row in run.metrics),
    )


def held_out(evaluations: Mapping[int, Mapping[str, Any]]) -> dict[str, HeldOut]:
    """Return the figures with an interval, from the first and the newest evaluation that has them; pass@k first, by
    k."""
    names = {name for result in evaluations.values() for name, value in result.items() if interval(value)}
    found = {}
    for name in sorted(names, key=by_k):
        first, *later = filter(None, (interval(evaluations[step].get(name)) for step in sorted(evaluations)))
        found[name] = HeldOut(first, later[-1] if later else None)
    return found


def interval(value: Any) -> Interval | None:
    if not isinstance(value, Mapping) or not {"mean", "low", "high"} <= value.keys():
        return None
    ends = (value["mean"], value["low"], value["high"])
    return Interval(*ends) if all(isinstance(end, int | float) for end in ends) else None


def by_k(name: str) -> tuple[bool, str, int]:
    """Return the key that sorts `pass@8` before `pass@16`, and pass before anything else."""
    kind, _, k = name.partition("@")
    return kind != "pass", kind, int(k) if re.fullmatch(r"[0-9]{1,9}", k) else 0


def time_split(row: Mapping[str, Number]) -> dict[str, float]:
    """Return the parts that add up to the step's time, in seconds.

    Verification is a part of the rollout where nothing else went on at the same time. Where the rollout ran beside the
    update of the step before, its part is the time spent waiting for it.
    """
    phases = ("save", "sync", "rollout", "update", "diagnostics")
    parts = {name: float(row.get(f"time/{name}") or 0.0) for name in phases}
    checking, generation = row.get("time/verification"), row.get("time/generation")
    if checking and generation and generation <= parts["rollout"]:
        parts = {**parts, "rollout": parts["rollout"] - checking, "verification": float(checking)}
    step = row.get("time/step")
    rest = None if step is None else total([step, *(-part for part in parts.values())])
    return {name: value for name, value in {**parts, "rest": max(0.0, rest or 0.0)}.items() if value}
