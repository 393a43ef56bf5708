"""The figures of a reproduction by method and step."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from bench.experiments import results
from bench.experiments.plan import BASE

Curve = Mapping[int, list[float]]
"""Values of a figure by step, one for each seed."""
TRAIN, VALIDATION = "pass@1 on training problems", "pass@1 on validation problems"
GAP = "pass@1 on training problems minus held-out"
KEPT = "responses learned from"
PILOT = "pilot"
"""Case of the rows of the pilot, with the step; their provider is the learning rate."""
GATES = "gates"
"""Case of the rows of what the base had to be; their provider is the base."""
WRITTEN = {
    "right": "variants that are right",
    "sound": "variants of sound contexts",
    "right, sound": "right among those of sound contexts",
    "right, lucky": "right among those of lucky contexts",
    "same": "with the computation of the original",
    "other": "with a computation that no training problem has",
    "new": "with a question that the run had not seen",
}
"""Names of the figures of the problems that a policy wrote. A context is lucky when its answer is right and its steps
are not those of the problem."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a method after some number of steps, or at the best checkpoint of each of its runs."""

    method: str
    step: int | None

    def __str__(self) -> str:
        if self.method == BASE:
            return "base"
        return f"{self.method} at its best" if self.step is None else f"{self.method} at step {self.step}"


class Results(results.Results):
    def curve(self, method: str, metric: str) -> Curve:
        """Return the values of all seeds at every step at which the method has this figure.

        The base stands at step 0 of every method.
        """
        found: dict[int, list[float]] = defaultdict(list)
        for row in self.rows:
            case = re.fullmatch(r"seed \d+, step (\d+)", row.case)
            if case and row.metric == metric and row.provider in (method, BASE):
                found[int(case[1])].append(row.value)
        return dict(sorted(found.items()))

    def values(self, side: Side, metric: str) -> list[float]:
        """Return one value for each seed."""
        if side.step is not None:
            return self.curve(side.method, metric)[side.step]
        of_side = (row for row in self.rows if (row.provider, row.metric) == (side.method, metric))
        return [row.value for row in of_side if re.fullmatch(r"seed \d+, best", row.case)]

    def mean(self, side: Side, metric: str) -> float:
        return fmean(self.values(side, metric))

    def chance(self, left: Side, right: Side, metric: str) -> float:
        """Return the p-value of a difference."""
        return self._values[f"{left} - {right}", results.BOOTSTRAP, f"{metric} p"]

    def pilot(self) -> dict[str, dict[int, float]]:
        """Return pass@1 on the validation problems by learning rate and step."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for row in self.rows:
            if row.case.startswith(f"{PILOT}, step "):
                found[row.provider][int(row.case.rpartition(" ")[2])] = row.value
        return found

    def gates(self) -> dict[str, float]:
        """Return the figures that the base was tried by; none where nothing was asked of it."""
        return {row.metric: row.value for row in self.rows if row.case == GATES}
