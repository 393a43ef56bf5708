"""Two curves that approach their limits at one common rate: the solver-verifier dynamics (arXiv 2507.00075).

With uncertainties U_s (solver) and U_v (verifier), gap G = U_s - U_v and potential energy E = k G - b, the paper's
dU_s/dt = -alpha E and dU_v/dt = -beta E have the solutions U(t) = U_inf + (U_0 - U_inf) exp(-rate t), with
rate = k (alpha - beta) in both, G_inf = b / k, and alpha / beta = (U_s0 - U_s_inf) / (U_v0 - U_v_inf).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

FEWEST = 4
"""Fewest points that a fit needs: a curve has three parameters, one of which the curves share."""
SLOWEST, FASTEST = 0.1, 5.0
"""Range of the rates searched: from this share of a lifetime in the whole series to so many lifetimes between two
points. A slower curve is a straight line in the series, a faster one a step."""
RATES = 120
NARROWINGS = 40


@dataclass(frozen=True, slots=True)
class Saturation:
    """A fit of several curves. Each tuple is `[series]`; the rate is common to all."""

    rate: float
    """Common rate, in 1 / step."""
    starts: tuple[float, ...]
    """Values at the first step of the series."""
    limits: tuple[float, ...]
    """Values that the curves approach."""
    errors: tuple[float, ...]
    """Root mean square of what each curve leaves unexplained."""
    bends: bool
    """Flag that the best rate is not at an end of the range, so that the series tell their limits."""

    @property
    def half_life(self) -> float:
        """Return the number of steps in which half of the way to the limits is covered."""
        return log(2) / self.rate


def fit_saturation(steps: np.ndarray, series: np.ndarray) -> Saturation:
    """Fit the curves by least squares to `series` [series, points] at `steps` [points], in rising order.

    Each series counts in units of its own variance. For a given rate the curves are linear in their other parameters,
    so only the rate is searched: on a grid, then by golden section. Raises ValueError for too few points and for a
    series that never changes.
    """
    if len(steps) < FEWEST:
        raise ValueError(f"{len(steps)} points are too few: a fit needs {FEWEST}")
    spread = series.std(axis=1)
    if (spread <= 1e-9 * np.abs(series).max(axis=1)).any():
        raise ValueError("a series that never changes has no rate")
    times = (steps - steps[0]).astype(float)
    values = series / spread[:, None]
    rates = np.geomspace(SLOWEST / times[-1], FASTEST / np.diff(times).min(), RATES)
    losses = [_solve(rate, times, values)[1].sum() for rate in rates]
    best = int(np.argmin(losses))
    inside = 0 < best < RATES - 1
    rate = _narrow(rates[best - 1], rates[best + 1], times, values) if inside else float(rates[best])
    (limits, starts), squares = _solve(rate, times, values)
    return Saturation(
        rate=rate,
        starts=tuple((starts * spread).tolist()),
        limits=tuple((limits * spread).tolist()),
        errors=tuple((np.sqrt(squares / len(times)) * spread).tolist()),
        bends=inside,
    )


def _solve(rate: float, times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best (limits, starts) [2, series] for a rate, and the sum of squares that they leave [series]."""
    left = np.exp(-rate * times)
    basis = np.stack([1 - left, left], axis=1)
    parameters = np.linalg.lstsq(basis, values.T, rcond=None)[0]
    return parameters, ((basis @ parameters - values.T) ** 2).sum(axis=0)


def _narrow(low: float, high: float, times: np.ndarray, values: np.ndarray) -> float:
    """Return the best rate between two neighbours of the grid's best, by golden section."""
    golden = (5**0.5 - 1) / 2
    for _ in range(NARROWINGS):
        first, second = high - golden * (high - low), low + golden * (high - low)
        if _solve(first, times, values)[1].sum() < _solve(second, times, values)[1].sum():
            high = second
        else:
            low = first
    return float((low + high) / 2)
