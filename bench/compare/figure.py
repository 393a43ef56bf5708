"""The picture of a comparison: where each method ends, and what happens to the solve rate in training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare.measure import SOLVE_RATE
from bench.compare.plan import CERTAINTY, CONFIGS, COVO, MAJORITY, RLVR, SVS, Comparison
from bench.compare.results import Results
from bench.experiments.plan import BASE
from fastsvs.telemetry import Theme, draw_themes

LINES: Mapping[str, tuple[str, Any]] = {
    RLVR: ("blue", "--"),
    SVS: ("green", "-"),
    MAJORITY: ("orange", "-."),
    CERTAINTY: ("red", ":"),
    COVO: ("purple", (0, (1, 1))),
}
"""Hue and dash of the methods in the last panel."""


def draw(path: Path, plan: Comparison, results: Results) -> list[Path]:
    """Draw the picture for light and dark pages, and return both paths."""
    metrics = ("pass@1", f"pass@{plan.samples}", "entropy")

    def paint(figure: Figure, theme: Theme) -> None:
        *ends, curves = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.4))
        for place, (axes, metric) in enumerate(zip(ends, metrics, strict=True)):
            _where_they_end(axes, results, metric, theme, named=place == 0)
        _solve_rates(curves, plan, results, theme)

    return draw_themes(path, (15, 4.2), paint)


def _where_they_end(axes: Axes, results: Results, metric: str, theme: Theme, named: bool) -> None:
    """Draw seeds as dots, their mean as a line, and the base's mean from top to bottom."""
    methods = list(reversed(CONFIGS))
    for place, method in enumerate(methods):
        values = results.seeds(method, metric)
        axes.plot(values, [place] * len(values), "o", color=theme.hues["green"], alpha=0.55, markersize=6)
        axes.plot([fmean(values)] * 2, [place - 0.3, place + 0.3], color=theme.hues["green"], linewidth=2.5)
    axes.axvline(fmean(results.seeds(BASE, metric)), color=theme.ink, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(methods)), methods if named else [""] * len(methods))
    axes.set_title(f"held-out {metric}" + (", nats per token" if metric == "entropy" else ""))
    axes.set_xlabel("dotted: the base")


def _solve_rates(axes: Axes, plan: Comparison, results: Results, theme: Theme) -> None:
    for method, (hue, dash) in LINES.items():
        for index, seed in enumerate(plan.seeds):
            curve = results.curve(method, SOLVE_RATE, seed)
            x, y = [responses / 1000 for responses, _ in curve], [value for _, value in curve]
            label = method if index == 0 else None
            axes.plot(x, y, color=theme.hues[hue], linestyle=dash, linewidth=1.6, label=label)
    axes.set_title("training solve rate")
    axes.set_xlabel("thousand responses")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.07), ncols=3, labelcolor=theme.ink, framealpha=0.0)
