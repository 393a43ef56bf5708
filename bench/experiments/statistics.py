"""Certainty of a difference between two methods: a bootstrap over problems and over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastsvs.evaluate import pass_at_k

DRAWS = 10_000
Figure = Sequence[np.ndarray]
"""Terms of a figure, `[seeds, problems]` each; the figure is the sum of their means."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference with the ends of its 95% interval."""

    value: float
    low: float
    high: float


def pass_rates(counts: np.ndarray, samples: int, k: int) -> np.ndarray:
    """Return pass@k of each problem from `counts` of correct samples, in the same shape."""
    by_count = np.array([pass_at_k(samples, correct, k) for correct in range(samples + 1)])
    return by_count[counts]


def difference(left: Figure, right: Figure, draws: int = DRAWS) -> Difference:
    """Return `left` minus `right`, which have terms over the same problems.

    A draw takes the problems of a term, the same on both sides, and the seeds of a side, the same for all its terms,
    with replacement.
    """
    low, high = np.percentile(_drawn(left, right, draws), [2.5, 97.5])
    return Difference(float(_value(left) - _value(right)), float(low), float(high))


def chance(left: Figure, right: Figure, draws: int = DRAWS) -> float:
    """Return the two-sided p-value of a difference, from the same draws as its interval: twice the share of them on the
    other side of 0, or at 0, counting one more than was drawn."""
    drawn = _drawn(left, right, draws)
    other = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (other + 1) / (draws + 1))


def holm(chances: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction (Scand. J. Stat. 6, 1979): the k-th smallest of n times n - k + 1, and
    never less than a smaller one's."""
    corrected, largest = [0.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=lambda place: chances[place])):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = largest
    return corrected


def _value(figure: Figure) -> float:
    return sum(float(term.mean()) for term in figure)


def _drawn(left: Figure, right: Figure, draws: int) -> np.ndarray:
    """Return the difference in each draw, `[draws]`."""
    random = np.random.default_rng(0)
    problems = [random.integers(term.shape[1], size=(draws, term.shape[1])) for term in left]
    return _drawn_values(left, problems, random) - _drawn_values(right, problems, random)


def _drawn_values(figure: Figure, problems: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """Return the figure in each draw, `[draws]`; `problems` are drawn for each term, `[draws, problems]`."""
    draws, count = len(problems[0]), len(figure[0])
    seeds = random.integers(count, size=(draws, count))
    weights = np.stack([(seeds == seed).mean(axis=1) for seed in range(count)], axis=1)  # [draws, seeds]
    of_seeds = np.zeros((draws, count))
    for term, drawn in zip(figure, problems, strict=True):
        of_seeds += np.stack([row[drawn].mean(axis=1) for row in term], axis=1)
    return (weights * of_seeds).sum(axis=1)
