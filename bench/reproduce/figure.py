"""The picture of a reproduction: entropy, pass@1 and pass@k against steps and against responses, and all k at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.experiments.figure import Theme, draw_themes
from bench.reproduce.claims import PAPER_K
from bench.reproduce.plan import METHODS, ON_POLICY, RLVR, SFT, SVS, Reproduction
from bench.reproduce.results import Results

LINES = {SVS: ("green", "-"), ON_POLICY: ("purple", "-."), RLVR: ("blue", "--"), SFT: ("orange", ":")}
"""Hue and dash of each method."""


def draw(path: Path, plan: Reproduction, results: Results) -> list[Path]:
    """Draw the picture for light and dark pages, with seeds thin and their mean bold, and return both paths."""
    metrics = ("entropy", "pass@1", f"pass@{min(PAPER_K, plan.samples)}", f"pass@{plan.samples}")

    def paint(figure: Figure, theme: Theme) -> None:
        rows = figure.subplots(3, 4)
        for axes, metric in zip(rows[0], metrics, strict=True):
            _against_steps(axes, plan, results, metric, theme)
        for axes, metric in zip(rows[1], metrics, strict=True):
            _against_responses(axes, results, metric, theme)
        for axes, method in zip(rows[2], METHODS, strict=True):
            _every_k(axes, plan, results, method)
        for axes, place in ((rows[0][0], "outside upper center"), (rows[2][0], "outside lower center")):
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc=place, ncols=len(labels), labelcolor=theme.ink, framealpha=0.0)

    return draw_themes(path, (15, 10), paint)


def _against_steps(axes: Axes, plan: Reproduction, results: Results, metric: str, theme: Theme) -> None:
    """Draw a metric against the step, up to the last step that all methods reach."""
    for method in METHODS:
        curve = {step: v for step, v in results.curve(method, metric).items() if step <= plan.compared}
        _plot(axes, method, [[step] * len(curve[step]) for step in curve], list(curve.values()), theme)
    axes.set_title(_title(metric))
    axes.set_xlabel("step")


def _against_responses(axes: Axes, results: Results, metric: str, theme: Theme) -> None:
    for method in METHODS:
        curve, responses = results.curve(method, metric), results.curve(method, "responses")
        cost = [[0.0] * len(curve[step]) if step == 0 else responses[step] for step in curve]
        _plot(axes, method, [[each / 1000 for each in step] for step in cost], list(curve.values()), theme)
    axes.set_title(_title(metric))
    axes.set_xlabel("thousand responses (SFT: solutions)")


def _plot(axes: Axes, method: str, x: Sequence[list[float]], y: Sequence[list[float]], theme: Theme) -> None:
    hue, dash = LINES[method]
    style: dict[str, Any] = {"color": theme.hues[hue], "linestyle": dash}
    for seed_x, seed_y in zip(zip(*x, strict=True), zip(*y, strict=True), strict=True):
        axes.plot(seed_x, seed_y, linewidth=0.8, alpha=0.45, **style)
    axes.plot([fmean(each) for each in x], [fmean(each) for each in y], linewidth=2.2, label=method, **style)


def _every_k(axes: Axes, plan: Reproduction, results: Results, method: str) -> None:
    """Draw the mean over seeds of pass@k for all k."""
    shades = colormaps["cool"](np.linspace(0.2, 1.0, len(plan.ks)))
    for k, shade in zip(plan.ks, shades, strict=True):
        curve = results.curve(method, f"pass@{k}")
        axes.plot(list(curve), [fmean(values) for values in curve.values()], color=shade, label=f"k = {k}")
    axes.set_title(f"held-out pass@k, {method}")
    axes.set_xlabel("step")


def _title(metric: str) -> str:
    return f"held-out {metric}" if metric.startswith("pass") else "held-out entropy, nats per token"
