"""Exponential approach to a limit: recovered where it is there, and refused where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.cli import main
from fastsvs.dynamics.saturation import fit_saturation
from fastsvs.files import write_jsonl

levels = st.floats(0.05, 0.95)


def curve(steps: np.ndarray, rate: float, start: float, limit: float) -> np.ndarray:
    return limit + (start - limit) * np.exp(-rate * (steps - steps[0]))


def write_run(folder: Path, steps: np.ndarray, **series: np.ndarray) -> Path:
    """Metrics named `solve_rate/<name>`."""
    write_jsonl(
        folder / "metrics.jsonl",
        [
            {"step": int(step), **{f"solve_rate/{name}": float(values[i]) for name, values in series.items()}}
            for i, step in enumerate(steps)
        ],
    )
    return folder


@given(
    points=st.integers(12, 60),
    every=st.integers(1, 10),
    lifetimes=st.floats(0.7, 10.0),
    solver=st.tuples(levels, levels),
    verifier=st.tuples(levels, levels),
)
def test_it_recovers_the_parameters_of_exact_curves(points, every, lifetimes, solver, verifier) -> None:
    steps = 1 + every * np.arange(points)
    rate = lifetimes / (steps[-1] - steps[0])
    pairs = [(start, limit if abs(start - limit) > 0.02 else start + 0.02) for start, limit in (solver, verifier)]
    fit = fit_saturation(steps, np.array([curve(steps, rate, *pair) for pair in pairs]))
    assert fit.rate == pytest.approx(rate, rel=1e-3)
    assert fit.half_life == pytest.approx(np.log(2) / rate, rel=1e-3)
    assert fit.starts == pytest.approx([start for start, _ in pairs], abs=1e-3)
    assert fit.limits == pytest.approx([limit for _, limit in pairs], abs=2e-3)
    assert max(fit.errors) < 1e-6
    assert fit.bends


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_units_do_not_matter(scale: float, shift: float, seed: int) -> None:
    steps = np.arange(40)
    noise = np.random.default_rng(seed).normal(0, 0.01, (2, 40))
    series = np.array([curve(steps, 0.1, 0.9, 0.3), curve(steps, 0.1, 0.7, 0.4)]) + noise
    plain = fit_saturation(steps, series)
    other = fit_saturation(steps, np.array([series[0], scale * (series[1] + shift)]))
    assert other.rate == pytest.approx(plain.rate, rel=1e-4)
    assert other.limits[0] == pytest.approx(plain.limits[0], rel=1e-3)
    assert other.limits[1] == pytest.approx(scale * (plain.limits[1] + shift), rel=1e-3, abs=1e-3 * scale)


def test_no_other_parameters_fit_noisy_curves_better() -> None:
    """Against a dense search over the rate with everything else solved from the normal equations."""
    steps = np.arange(1, 61)
    noise = np.random.default_rng(3).normal(0, 0.02, (2, 60))
    series = np.array([curve(steps, 0.07, 0.8, 0.35), curve(steps, 0.07, 0.6, 0.4)]) + noise

    def loss(rate: float) -> float:
        basis = np.stack([np.ones(60), np.exp(-rate * (steps - 1))], axis=1)
        found = np.linalg.solve(basis.T @ basis, basis.T @ series.T)
        return float((((basis @ found).T - series) ** 2).sum(axis=1) @ (1 / series.var(axis=1)))

    fit = fit_saturation(steps, series)
    best = min(np.geomspace(0.03, 0.15, 3000), key=loss)
    assert fit.rate == pytest.approx(best, rel=1e-3)
    assert fit.rate == pytest.approx(0.07, rel=0.2)
    assert fit.limits == pytest.approx([0.35, 0.4], abs=0.03)
    assert fit.errors == pytest.approx([0.02, 0.02], rel=0.3)


def test_a_straight_line_tells_no_limit() -> None:
    steps = np.arange(30)
    assert not fit_saturation(steps, np.array([1 - 0.01 * steps, 1 - 0.02 * steps])).bends


def test_the_command_reports_limits_gap_and_what_the_first_third_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """dU/dt = -alpha E and -beta E with E = k G - b, integrated numerically, not from the solution that is fitted."""
    alpha, beta, k, b = 0.2, 0.08, 1.0, 0.1
    solver, verifier = [0.7], [0.3]
    for _ in range(59 * 1000):
        energy = k * (solver[-1] - verifier[-1]) - b
        solver.append(solver[-1] - alpha * energy / 1000)
        verifier.append(verifier[-1] - beta * energy / 1000)
    write_run(
        tmp_path, np.arange(1, 61), original=1 - np.array(solver[::1000]), verification=1 - np.array(verifier[::1000])
    )
    assert main(["analyze", str(tmp_path), "--fit"]) == 0
    result = json.loads((tmp_path / "saturation.json").read_text())
    assert result["points"] == 60
    for part in ("all", "first_third"):
        assert result[part]["rate"] == pytest.approx(k * (alpha - beta), rel=1e-3)
        assert result[part]["gap"]["limit"] == pytest.approx(b / k, abs=1e-3)
        assert result[part]["speed_ratio"] == pytest.approx(alpha / beta, rel=1e-3)
    curves = result["all"]["series"]
    assert curves["1 - solve_rate/original"]["start"] == pytest.approx(0.7, abs=1e-4)
    assert curves["1 - solve_rate/original"]["limit"] == pytest.approx(0.7 - 0.3 * alpha / (alpha - beta), abs=1e-3)
    assert "limit as of step 20" in capsys.readouterr().out.replace("\n", " ")


def test_any_two_metrics_of_the_steps_that_have_both(tmp_path: Path) -> None:
    steps = np.arange(1, 41)
    rows = [{"step": int(s), "a": float(v)} for s, v in zip(steps, curve(steps, 0.2, 3.0, 1.0), strict=True)]
    for row in rows[::2]:
        row["b"] = 2 * row["a"] - 1
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    assert main(["analyze", str(tmp_path), "--fit", "a", "b", "--out", str(tmp_path / "fit.json")]) == 0
    result = json.loads((tmp_path / "fit.json").read_text())
    assert result["points"] == 20
    assert result["all"]["series"]["a"]["limit"] == pytest.approx(1.0, abs=1e-4)
    assert result["all"]["series"]["b"]["limit"] == pytest.approx(1.0, abs=1e-4)


FLAT = np.full(20, 0.5)
RISING = np.linspace(0.2, 0.6, 20)


@pytest.mark.parametrize(
    ("series", "arguments", "message"),
    [
        ({"original": RISING[:11], "verification": RISING[:11]}, [], "only 11 steps have both"),
        ({"original": RISING, "verification": FLAT}, [], "a series that never changes has no rate"),
        ({"original": RISING}, [], "no step has the metric 'solve_rate/verification'"),
        ({"original": RISING, "critique": RISING}, ["solve_rate/original", "solve_rate/critic"], "solve_rate/critique"),
        ({"original": RISING}, ["solve_rate/original"], "takes two series or none"),
        ({}, [], "has no metrics.jsonl"),
    ],
)
def test_what_it_refuses(tmp_path: Path, capsys, series: dict, arguments: list[str], message: str) -> None:
    if series:
        write_run(tmp_path, np.arange(1, 1 + len(next(iter(series.values())))), **series)
    assert main(["analyze", str(tmp_path), "--fit", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "saturation.json").exists()
