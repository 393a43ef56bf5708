"""The figures of a comparison by method and seed."""

from __future__ import annotations

import re

from bench.experiments import results


class Results(results.Results):
    def seeds(self, method: str, metric: str) -> list[float]:
        """Return one value for each seed."""
        of_method = (row for row in self.rows if (row.provider, row.metric) == (method, metric))
        return [row.value for row in of_method if re.fullmatch(r"seed \d+", row.case)]

    def curve(self, method: str, metric: str, seed: int) -> list[tuple[int, float]]:
        """Return the (responses, value) of one run."""
        of_run = (row for row in self.rows if (row.provider, row.metric) == (method, metric))
        found = ((re.fullmatch(rf"seed {seed}, (\d+) responses", row.case), row.value) for row in of_run)
        return [(int(match[1]), value) for match, value in found if match]
