"""The figures of a reproduction as they stand in its JSON file: everything that the page and the picture show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from bench.report import Row
from bench.reproduce.plan import BASE
from bench.reproduce.statistics import Difference

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
UNITS = {"entropy": "nats/token", "responses": "responses", "seconds": "s"}
"""Units of the metrics that are not shares."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a method after some number of steps."""

    method: str
    step: int

    def __str__(self) -> str:
        return "base" if self.method == BASE else f"{self.method} at step {self.step}"


@dataclass(frozen=True)
class Results:
    rows: tuple[Row, ...]

    @cached_property
    def _values(self) -> dict[tuple[str, str, str], float]:
        return {(row.case, row.provider, row.metric): row.value for row in self.rows}

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

    def difference(self, left: Side, right: Side, metric: str) -> Difference:
        case, provider = f"{left} - {right}", "bootstrap"
        return Difference(*(self._values[case, provider, metric + end] for end in ("", " low", " high")))

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(row.note for row in self.rows if row.note))


def point_rows(method: str, seed: int, step: int, figures: Mapping[str, float], note: str | None = None) -> list[Row]:
    """Return the rows of one model's figures."""
    case = f"seed {seed}, step {step}"
    return [
        Row(case, method, metric, value, UNITS.get(metric, "share"), note=note) for metric, value in figures.items()
    ]


def difference_rows(left: Side, right: Side, metric: str, found: Difference) -> Iterable[Row]:
    """Yield the rows of a difference and of its interval."""
    for end, value in (("", found.value), (" low", found.low), (" high", found.high)):
        yield Row(f"{left} - {right}", "bootstrap", metric + end, value, UNITS.get(metric, "share"))
