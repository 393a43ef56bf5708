"""The figures of a comparison as they stand in its JSON file: everything that the page and the picture show."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.report import Row


@dataclass(frozen=True)
class Results:
    rows: tuple[Row, ...]

    def seeds(self, method: str, metric: str) -> list[float]:
        """Return one value for each seed."""
        of_method = (row for row in self.rows if (row.provider, row.metric) == (method, metric))
        return [row.value for row in of_method if re.fullmatch(r"seed \d+", row.case)]

    def curve(self, method: str, metric: str, seed: int) -> list[tuple[int, float]]:
        """Return the (responses, value) of one run."""
        of_run = (row for row in self.rows if (row.provider, row.metric) == (method, metric))
        found = ((re.fullmatch(rf"seed {seed}, (\d+) responses", row.case), row.value) for row in of_run)
        return [(int(match[1]), value) for match, value in found if match]

    def difference(self, method: str, other: str, metric: str) -> tuple[float, float, float]:
        """Return the value and the ends of its 95% interval."""
        of_case = {row.metric: row.value for row in self.rows if row.case == f"{method} - {other}"}
        return of_case[metric], of_case[f"{metric} low"], of_case[f"{metric} high"]
