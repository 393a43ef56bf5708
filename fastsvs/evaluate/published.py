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


def published() -> tuple[list[Published], dict[str, str]]:
    """Return all rows, and the text of each source by its key."""
    tree = json.loads(files("fastsvs.evaluate").joinpath("published.json").read_text(encoding="utf-8"))
    return [Published(**row) for row in tree["rows"]], tree["sources"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric: our row first, then those that share a set with it."""

    metric: str
    sets: Sequence[str]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    """Rows of (name, value of each set and the average of all, in percent); a value is None where there is none."""


def compare(name: str, results: Mapping[str, Mapping[str, Any]]) -> list[Comparison]:
    """Compare `results` (figures by set) of the model `name` with every published table that has one of its sets.

    Our average is given only where we have all sets of the table.
    """
    rows, sources = published()
    comparisons = []
    for source in sources:
        for metric in dict.fromkeys(row.metric for row in rows if row.source == source and row.values):
            theirs = [row for row in rows if (row.source, row.metric) == (source, metric)]
            sets = list(theirs[0].values)
            ours = [_percent(results.get(key, {}).get(metric)) for key in sets]
            if any(value is not None for value in ours):
                known = [value for value in ours if value is not None]
                average = sum(known) / len(sets) if len(known) == len(sets) else None
                lines = [(f"{row.size}: {row.model}", [*row.values.values(), row.average]) for row in theirs]
                comparisons.append(Comparison(f"{metric}: {sources[source]}", sets, [(name, [*ours, average]), *lines]))
    return comparisons


def _percent(rate: Mapping[str, float] | None) -> float | None:
    return None if rate is None else 100 * rate["mean"]
