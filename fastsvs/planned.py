"""Planned times and memory of a run beside the measured ones. Nothing here loads torch.

`fastsvs train` records the plan of its own configuration and machines in plan.json; the report and `fastsvs plan
--against` hold the metrics of a run against a plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from statistics import median
from typing import Any

PEAK = "system/peak"
"""Prefix of the metrics whose highest value counts."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A planned metric."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric, planned and measured."""

    metric: str
    planned: float
    measured: float
    unit: str

    @property
    def error(self) -> float | None:
        """Return by which share the plan is over the measurement; None where that is no number, as over nothing."""
        over = self.planned / self.measured - 1 if self.measured else inf
        return over if isfinite(over) else None


def compare(planned: Mapping[str, Figure], rows: Sequence[Mapping[str, Any]]) -> list[Compared]:
    """Return each planned metric that the rows of metrics.jsonl have, measured as the median of the steps after the
    first, which warms up; what happens every few steps is their mean, as the plan counts it. A peak is the highest."""
    later = [row for row in rows if row.get("step", 0) > 1]
    found = []
    for name, figure in planned.items():
        values = [float(row[name]) for row in later if isinstance(row.get(name), int | float)]
        if values:
            found.append(Compared(name, figure.value, _typical(name, values, len(later)), figure.unit))
    return found


def _typical(name: str, values: Sequence[float], steps: int) -> float:
    if name.startswith(PEAK):
        return max(values)
    return sum(value / steps for value in values) if name in ("time/save", "time/diagnostics") else median(values)
