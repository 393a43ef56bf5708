"""Parts of which the pages of experiments are made."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from statistics import fmean

from bench.experiments.statistics import Difference

UNREAD = "Nobody has read these figures yet; what stands above is computed."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scale_of(metric: str) -> tuple[float, int]:
    """Return the factor and the digits with which a metric is shown: nats as they are, shares in percent."""
    return (1, 3) if metric == "entropy" else (100, 1)


def spread(values: Sequence[float], scale: float, digits: int) -> str:
    """Return the mean of the seeds, with the least and the largest where there are several."""
    mean, low, high = (f"{scale * value:.{digits}f}" for value in (fmean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})" if len(values) > 1 else mean


def interval(found: Difference, metric: str) -> str:
    """Return a difference with its interval."""
    scale, digits = scale_of(metric)
    value, low, high = (f"{scale * each:+.{digits}f}" for each in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}]"


def reading(source: str, earlier: str) -> str:
    """Return the reading of the figures, which is written by hand and stands between two marks, out of the page before:
    as long as it belongs to the same `source`, the JSON file."""
    opening, closing = f"<!-- reading of {source} -->", "<!-- end of reading -->"
    kept = re.search(rf"{re.escape(opening)}\n(.*?)\n{closing}", earlier, re.DOTALL)
    return f"{opening}\n{kept[1] if kept else UNREAD}\n{closing}"
