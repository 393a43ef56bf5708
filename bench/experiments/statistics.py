"""Certainty of a difference between two methods: a bootstrap over problems and over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastsvs.evaluate import pass_at_k

DRAWS = 10_000


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


def difference(left: np.ndarray, right: np.ndarray, draws: int = DRAWS) -> Difference:
    """Return the mean of `left` minus the mean of `right`, `[seeds, problems]` each.

    A draw takes the same problems on both sides, and seeds on each side separately, all with replacement. A figure that
    has no problems comes as `[seeds, 1]`.
    """
    low, high = np.percentile(_drawn(left, right, draws), [2.5, 97.5])
    return Difference(float(left.mean() - right.mean()), float(low), float(high))


def chance(left: np.ndarray, right: np.ndarray, draws: int = DRAWS) -> float:
    """Return the two-sided p-value of a difference, from the same draws as its interval: twice the share of them on the
    other side of 0, or at 0."""
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


def by_seed(values: Sequence[float]) -> np.ndarray:
    """Return one figure for each seed as `[seeds, 1]`, the shape that `difference` takes."""
    return np.array(values, dtype=float)[:, None]


def _drawn(left: np.ndarray, right: np.ndarray, draws: int) -> np.ndarray:
    """Return the difference in each draw, `[draws]`."""
    random = np.random.default_rng(0)
    problems = random.integers(left.shape[1], size=(draws, left.shape[1]))
    return _drawn_means(left, problems, random) - _drawn_means(right, problems, random)


def _drawn_means(values: np.ndarray, problems: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the mean of each draw, `[draws]`."""
    seeds = random.integers(values.shape[0], size=(len(problems), values.shape[0]))
    weights = np.stack([(seeds == seed).mean(axis=1) for seed in range(values.shape[0])], axis=1)  # [draws, seeds]
    of_seeds = np.stack([row[problems].mean(axis=1) for row in values], axis=1)  # [draws, seeds]
    return (weights * of_seeds).sum(axis=1)
