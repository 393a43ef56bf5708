"""The figures of an experiment as they stand in its JSON file: everything that the page and the picture show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from bench.experiments.statistics import Difference
from bench.report import Row

BOOTSTRAP = "bootstrap"
"""Provider of the rows of differences."""
UNITS = {
    "entropy": "nats/token",
    "responses": "responses",
    "steps": "steps",
    "seconds": "s",
    "milliseconds": "ms",
}
"""Units of the metrics that are not shares."""


@dataclass(frozen=True)
class Results:
    rows: tuple[Row, ...]

    def difference(self, left: object, right: object, metric: str) -> Difference:
        case = f"{left} - {right}"
        return Difference(*(self._values[case, BOOTSTRAP, metric + end] for end in ("", " low", " high")))

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(row.note for row in self.rows if row.note))

    @cached_property
    def _values(self) -> dict[tuple[str, str, str], float]:
        return {(row.case, row.provider, row.metric): row.value for row in self.rows}


def point_rows(case: str, method: str, figures: Mapping[str, float], note: str | None = None) -> Iterator[Row]:
    """Yield the rows of a method's figures."""
    for metric, value in figures.items():
        yield Row(case, method, metric, value, UNITS.get(metric, "share"), note=note)


def difference_rows(left: object, right: object, metric: str, found: Difference) -> Iterator[Row]:
    """Yield the rows of a difference and of its interval."""
    for end, value in (("", found.value), (" low", found.low), (" high", found.high)):
        yield Row(f"{left} - {right}", BOOTSTRAP, metric + end, value, UNITS.get(metric, "share"))
