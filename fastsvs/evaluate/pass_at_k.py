"""pass@k: the chance that at least one of k samples is correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import comb

import numpy as np

BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems with its 95% interval (percentile bootstrap over problems)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@lru_cache(maxsize=1 << 16)
def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the unbiased estimate 1 - C(n-c, k) / C(n, k) from c correct among n samples, in exact integer arithmetic.

    Raises ValueError unless 0 <= c <= n and 1 <= k <= n.
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return 1.0 - comb(n - c, k) / comb(n, k)


def estimate(counts: Sequence[tuple[int, int]], k: int, seed: int = 0) -> Estimate:
    """Return pass@k over problems given as (samples n, correct c), with its interval."""
    return bootstrap([pass_at_k(n, c, k) for n, c in counts], seed)


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """Return the mean of one value for each problem, with its interval."""
    return resampled(np.array([values], dtype=float), lambda means: means[0], seed)


def resampled(values: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int = 0) -> Estimate:
    """Return a function of means over problems, with its interval.

    `values` are [quantities, problems], and `statistic` takes their means [quantities, n] to [n].
    """
    draws = np.random.default_rng(seed).integers(values.shape[1], size=(BOOTSTRAP_DRAWS, values.shape[1]))
    low, high = np.percentile(statistic(values[:, draws].mean(axis=2)), [2.5, 97.5])
    return Estimate(float(statistic(values.mean(axis=1, keepdims=True))[0]), float(low), float(high))
