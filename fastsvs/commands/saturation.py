"""`fastsvs analyze RUN --fit`: where a run's solving and verifying are heading, and how soon that could be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from fastsvs.dynamics import FEWEST, Saturation, fit_saturation
from fastsvs.errors import UserError
from fastsvs.files import write_json
from fastsvs.stored_run import RunLayout, StoredRun

DEFAULT_SERIES = ("solve_rate/original", "solve_rate/verification")
RATE = "solve_rate/"
"""Prefix of the series that are shares of right answers; the uncertainty is what is missing to 1."""


def analyze_saturation(run: Path, names: Sequence[str], out: Path | None) -> dict[str, Any]:
    """Fit two series of the run's metrics, solver first, over all steps and over the first third alone."""
    solver, verifier = names or DEFAULT_SERIES
    steps, series = read_series(run, (solver, verifier))
    third = len(steps) // 3
    titles = [_title(solver), _title(verifier)]
    try:
        all_steps = fit_saturation(steps, series)
    except ValueError as error:
        raise UserError(f"{run}: {' and '.join(titles)} cannot be fitted: {error}") from error
    try:
        first_third = fit_saturation(steps[:third], series[:, :third])
    except ValueError:  # it did not change so early
        first_third = None
    result = {
        "run": str(run),
        "points": len(steps),
        "all": _figures(all_steps, titles),
        "first_third": first_third and _figures(first_third, titles),
    }
    _show(titles, all_steps, first_third, int(steps[third - 1]))
    write_json(out or RunLayout(run).saturation, result)
    return result


def read_series(run: Path, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps [points] that have all the metrics, and the uncertainties [series, points]. Raises UserError for
    an unknown metric, or too few steps."""
    rows = StoredRun(run).metrics()
    if not rows:
        raise UserError(f"{run} has no metrics.jsonl with a step in it")
    known = sorted({name for row in rows for name in row} - {"step"})
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=3, cutoff=0.3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise UserError(f"{run}: no step has the metric {name!r}: name two with --fit SOLVER VERIFIER{hint}")
    rows = [row for row in rows if all(name in row for name in names)]
    if len(rows) < 3 * FEWEST:
        raise UserError(
            f"{run}: only {len(rows)} steps have both {names[0]} and {names[1]}, but a fit of all of them and one of "
            f"their first third take {3 * FEWEST}"
        )
    values = [[1 - row[name] if name.startswith(RATE) else row[name] for row in rows] for name in names]
    return np.array([row["step"] for row in rows]), np.array(values, dtype=float)


def _title(name: str) -> str:
    return f"1 - {name}" if name.startswith(RATE) else name


def _figures(fit: Saturation, titles: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a fit. `gap` is the first series less the second; `speed_ratio` is alpha / beta, or None
    where the second does not move."""
    moved = [start - limit for start, limit in zip(fit.starts, fit.limits, strict=True)]
    curves: Mapping[str, Any] = {
        title: {"start": start, "limit": limit, "error": error}
        for title, start, limit, error in zip(titles, fit.starts, fit.limits, fit.errors, strict=True)
    }
    return {
        "rate": fit.rate,
        "half_life": fit.half_life,
        "bends": fit.bends,
        "series": curves,
        "gap": {"start": fit.starts[0] - fit.starts[1], "limit": fit.limits[0] - fit.limits[1]},
        "speed_ratio": moved[0] / moved[1] if moved[1] else None,
    }


def _show(titles: Sequence[str], fit: Saturation, early: Saturation | None, early_step: int) -> None:
    table = Table("", "start", "limit", f"limit as of step {early_step}", "error", title="approach to a limit")
    for index, title in enumerate(titles):
        predicted = f"{early.limits[index]:.4f}" if early else "-"
        row = (fit.starts[index], fit.limits[index], fit.errors[index])
        start, limit, error = (f"{value:.4f}" for value in row)
        table.add_row(title, start, limit, predicted, error)
    console = Console()
    console.print(table)
    for when, found in (("all steps", fit), (f"steps up to {early_step}", early)):
        if found is not None:
            doubt = "" if found.bends else ": an end of the range, these series do not tell a limit"
            console.print(f"{when}: rate {found.rate:.4g} a step, half-life {found.half_life:.4g} steps{doubt}")
