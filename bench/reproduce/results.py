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
WEIGHTS = {
    "sparsity/exact": "equal to the base's in fp32, %",
    "sparsity/bf16": "equal in bf16, %",
    "sparsity/tolerance": "within 1e-5, %",
    "relative_change": "norm of the change over the base's, %",
}
"""Names of figures of `fastsvs.dynamics.compare`, with their heads on the page."""
VALID = "variants that are right"


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a method after some number of steps."""

    method: str
    step: int

    def __str__(self) -> str:
        return "base" if self.method == BASE else f"{self.method} at step {self.step}"


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

    def mean(self, side: Side, metric: str) -> float:
        return fmean(self.curve(side.method, metric)[side.step])
