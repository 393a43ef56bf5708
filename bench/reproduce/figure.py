"""The picture of a reproduction: what methods solve, and how sure they are, against the responses that they cost."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from bench.reproduce.claims import SOME_K
from bench.reproduce.plan import AGAIN, ON_POLICY, RLVR, SVS, SVS_UNFILTERED, UNFILTERED, Reproduction
from bench.reproduce.results import Results
from fastsvs.telemetry import Theme, draw_themes

LINES = {
    ON_POLICY: ("green", "-"),
    SVS: ("purple", "-"),
    SVS_UNFILTERED: ("green", ":"),
    AGAIN: ("orange", "-."),
    RLVR: ("blue", "--"),
    UNFILTERED: ("red", ":"),
}
"""Hue and dash of each method that is drawn."""


def draw(path: Path, plan: Reproduction, results: Results) -> list[Path]:
    """Draw the picture for light and dark pages, with seeds thin and their mean bold, and return both paths."""
    titles = {
        "pass@1": "solved in one try",
        f"pass@{min(SOME_K, plan.samples)}": f"solved within {min(SOME_K, plan.samples)} tries",
        "entropy": "entropy, nats per token",
    }

    def paint(figure: Figure, theme: Theme) -> None:
        panels = figure.subplots(1, len(titles))
        for axes, (metric, title) in zip(panels, titles.items(), strict=True):
            for method in (each for each in LINES if each in plan.steps):
                _plot(axes, results, method, metric, theme)
            axes.set_title(title, fontsize=15)
            axes.set_xlabel("thousand responses sampled", fontsize=12)
            if metric != "entropy":
                axes.yaxis.set_major_locator(MultipleLocator(0.05))
                axes.yaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f}%")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            *(handles, labels),
            loc="outside upper center",
            ncols=len(labels),
            labelcolor=theme.ink,
            framealpha=0.0,
            fontsize=13,
        )

    return draw_themes(path, (15, 5), paint)


def _plot(axes: Axes, results: Results, method: str, metric: str, theme: Theme) -> None:
    """Draw a metric against the responses; the base stands at 0."""
    hue, dash = LINES[method]
    style: dict[str, Any] = {"color": theme.hues[hue], "linestyle": dash}
    curve, responses = results.curve(method, metric), results.curve(method, "responses")
    x = [[each / 1000 for each in responses.get(step, [0.0] * len(values))] for step, values in curve.items()]
    for seed_x, seed_y in zip(zip(*x, strict=True), zip(*curve.values(), strict=True), strict=True):
        axes.plot(seed_x, seed_y, linewidth=0.8, alpha=0.4, **style)
    axes.plot(
        [fmean(each) for each in x], [fmean(each) for each in curve.values()], linewidth=2.8, label=method, **style
    )
