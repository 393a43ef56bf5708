"""The figures of a reproduction by method and step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from bench.experiments import results
from bench.experiments.plan import BASE

Curve = Mapping[int, list[float]]
"""Values of a figure by step, one for each seed."""
GAP = "pass@1 on training problems minus held-out"
CHOSEN = "step of the best checkpoint"
SCORES = {"validation": "pass@1 on validation problems", "train": "pass@1 on training problems"}
"""Names of the figures of the sets other than the held-out one."""
VARIANTS = {
    "valid": "variants that are right",
    "sound": "variants of sound contexts",
    "valid of sound": "of variants of sound contexts, right",
    "valid of lucky": "of variants of lucky contexts, right",
    "new question": "variants with a question that is new to the run",
    "new computation": "variants whose computation no training problem has",
    "same computation": "variants with the computation of the original",
}
"""Names of the figures of the problems that a policy wrote. A context is lucky when its answer is right and its steps
are not."""
KEPT = "samples learned from"


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
            if row.metric == metric and row.provider in (method, BASE) and row.case.startswith("seed "):
                found[int(row.case.rpartition(" ")[2])].append(row.value)
        return dict(sorted(found.items()))

    def values(self, side: Side, metric: str) -> list[float]:
        """Return one value for each seed."""
        if side.step is not None:
            return self.curve(side.method, metric)[side.step]
        steps = [int(step) for [*steps] in [self.curve(side.method, CHOSEN)[0]] for step in steps]
        return [self.curve(side.method, metric)[step][seed] for seed, step in enumerate(steps)]

    def mean(self, side: Side, metric: str) -> float:
        return fmean(self.values(side, metric))
