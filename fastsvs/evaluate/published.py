"""The figures that the SvS paper and its repository publish, for comparison with our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """One row of a published table, in percent."""

    model: str
    """Name of the method with its training data, or of an untrained model."""
    size: str
    metric: str
    """Name of the metric: `pass@k`."""
    source: str
    """Key in `sources`."""
    values: Mapping[str, float]
    """Value by set; empty where only the average is published."""
    average: float
    evaluation: str | None = None
    """Name of the shipped configuration that evaluates our model of this row; None where no configuration trains it."""

    @property
    def name(self) -> str:
        return f"{self.size}: {self.model}"


def published() -> tuple[list[Published], dict[str, str]]:
    """Return all rows, and the text of each source by its key."""
    tree = json.loads(files("fastsvs.evaluate").joinpath("published.json").read_text(encoding="utf-8"))
    return [Published(**row) for row in tree["rows"]], tree["sources"]


def published_tables() -> dict[tuple[str, str], list[Published]]:
    """Return the rows of every published table with values by set, by (source, metric). The rows of a table have the
    same sets."""
    rows, sources = published()
    found: dict[tuple[str, str], list[Published]] = {}
    for row in sorted(rows, key=lambda row: list(sources).index(row.source)):
        if row.values:
            found.setdefault((row.source, row.metric), []).append(row)
    return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric: our row first, then those that share a set with it."""

    metric: str
    sets: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    """Rows of (name, value of each set and the average of all, in percent); a value is None where there is none."""
    missing: Mapping[str, str]
    """Sets whose cell our row lacks, each with what is missing."""


def compare(name: str, results: Mapping[str, Mapping[str, Any]]) -> list[Comparison]:
    """Compare `results` (figures by set) of the model `name` with every published table that has one of its sets.

    Our average is given only where we have all cells of the table.
    """
    _, sources = published()
    return [
        Comparison(
            f"{metric}: {sources[source]}",
            list(theirs[0].values),
            [
                (name, our_cells(results, theirs[0])),
                *((row.name, [*row.values.values(), row.average]) for row in theirs),
            ],
            missing_cells(results, theirs[0]),
        )
        for (source, metric), theirs in published_tables().items()
        if results.keys() & theirs[0].values.keys()
    ]


def our_cells(results: Mapping[str, Mapping[str, Any]], theirs: Published) -> list[float | None]:
    """Return our value of each cell of a published row, in percent, and the average where no cell is missing."""
    ours = [_percent(results.get(key, {}).get(theirs.metric)) for key in theirs.values]
    known = [value for value in ours if value is not None]
    return [*ours, sum(known) / len(known) if len(known) == len(ours) else None]


def missing_cells(results: Mapping[str, Mapping[str, Any]], theirs: Published) -> dict[str, str]:
    """Return the sets of a published row whose cell `results` do not have, each with what is missing."""
    lacking = f"no {theirs.metric}, for which k and samples of the set are too small"
    return {
        key: lacking if key in results else "not evaluated"
        for key in theirs.values
        if theirs.metric not in results.get(key, {})
    }


def missing_text(cells: Mapping[str, str]) -> str:
    """Return the missing cells as text, with the sets of each reason together."""
    reasons = dict.fromkeys(cells.values())
    return "; ".join(f"{why}: {', '.join(key for key in cells if cells[key] == why)}" for why in reasons)


def _percent(rate: Mapping[str, float] | None) -> float | None:
    return None if rate is None else 100 * rate["mean"]
