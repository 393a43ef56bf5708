"""The picture of a comparison: where each method ends, and what happens to the solve rate in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.compare.measure import SOLVE_RATE
from bench.compare.plan import BASE, CERTAINTY, CONFIGS, COVO, MAJORITY, RLVR, SVS, Plan
from bench.compare.results import Results
from bench.figures import dress

CURVES: Mapping[str, Any] = {RLVR: "--", SVS: "-", MAJORITY: "-.", CERTAINTY: ":", COVO: (0, (1, 1))}
"""Dashes of the methods in the last panel."""


@dataclass(frozen=True)
class Theme:
    ending: str
    """End of the file's name."""
    ink: str
    paper: str
    mark: str
    colors: dict[str, str]


LIGHT = Theme(
    ending=".png",
    ink="#24292f",
    paper="#ffffff",
    mark="#1a7f4b",
    colors={RLVR: "#2f5fb3", SVS: "#1a7f4b", MAJORITY: "#b35c00", CERTAINTY: "#b3283a", COVO: "#8250df"},
)
DARK = Theme(
    ending="-dark.png",
    ink="#c9d1d9",
    paper="#0d1117",
    mark="#56d364",
    colors={RLVR: "#79b0ff", SVS: "#56d364", MAJORITY: "#f0a04b", CERTAINTY: "#ff7b85", COVO: "#d2a8ff"},
)


def draw(path: Path, plan: Plan, results: Results) -> list[Path]:
    """Draw `path` for light pages and `<stem>-dark.png` for dark ones, and return both paths."""
    written = []
    for theme in (LIGHT, DARK):
        figure = Figure(figsize=(15, 4.2), layout="constrained", facecolor=theme.paper)
        *ends, curves = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.4))
        for place, (axes, metric) in enumerate(zip(ends, ("pass@1", f"pass@{plan.samples}", "entropy"), strict=True)):
            _where_they_end(axes, results, metric, theme, named=place == 0)
        _solve_rates(curves, plan, results, theme)
        for axes in (*ends, curves):
            dress(axes, theme.ink, theme.paper)
        written.append(path.with_name(path.stem + theme.ending))
        figure.savefig(written[-1], dpi=90)
    return written


def _where_they_end(axes: Axes, results: Results, metric: str, theme: Theme, named: bool) -> None:
    """Draw seeds as dots, their mean as a line, and the base's mean from top to bottom."""
    methods: Sequence[str] = list(reversed(CONFIGS))
    for place, method in enumerate(methods):
        values = results.seeds(method, metric)
        axes.plot(values, [place] * len(values), "o", color=theme.mark, alpha=0.55, markersize=6)
        axes.plot([fmean(values)] * 2, [place - 0.3, place + 0.3], color=theme.mark, linewidth=2.5)
    axes.axvline(fmean(results.seeds(BASE, metric)), color=theme.ink, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(methods)), methods if named else [""] * len(methods))
    axes.set_title(f"held-out {metric}" + (", nats per token" if metric == "entropy" else ""))
    axes.set_xlabel("dotted: the base")


def _solve_rates(axes: Axes, plan: Plan, results: Results, theme: Theme) -> None:
    for method, dash in CURVES.items():
        for index, seed in enumerate(plan.seeds):
            curve = results.curve(method, SOLVE_RATE, seed)
            x, y = [responses / 1000 for responses, _ in curve], [value for _, value in curve]
            label = method if index == 0 else None
            axes.plot(x, y, color=theme.colors[method], linestyle=dash, linewidth=1.6, label=label)
    axes.set_title("training solve rate")
    axes.set_xlabel("thousand responses")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.07), ncols=3, labelcolor=theme.ink, framealpha=0.0)
