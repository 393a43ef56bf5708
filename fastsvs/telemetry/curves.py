"""Draws a run in one picture: held-out pass@k, solve rates, entropy, and what was learned from."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsvs.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {"original": "#3366aa", "synthesis": "#dd8833", "variant": "#33996b"}
LABELS = {"original": "data-set problems", "synthesis": "problems written", "variant": "own problems solved"}


def draw_curves(
    path: Path, title: str, metrics: Sequence[Mapping[str, float]], evaluations: Mapping[int, Mapping[str, Any]]
) -> None:
    """Write a PNG from the rows of metrics.jsonl and the evaluations by step."""
    from matplotlib.figure import Figure  # takes most of a second, and one rank needs it once

    figure = Figure(figsize=(11, 7), layout="constrained")
    (held_out, solving), (entropy, learning) = figure.subplots(2, 2)
    figure.suptitle(title)
    _held_out(held_out, evaluations)
    for kind in ("original", "variant"):
        _line(solving, metrics, f"solve_rate/{kind}", COLORS[kind], LABELS[kind])
    _finish(solving, "Mean solve rate in training", "share correct")
    _line(entropy, metrics, "policy/entropy", "#663399", "all")
    _finish(entropy, "Policy entropy", "nats per token")
    steps = [row["step"] for row in metrics]
    counts = [[row.get(f"kept_samples/{kind}", 0.0) for row in metrics] for kind in COLORS]
    if steps:
        learning.stackplot(steps, counts, labels=list(LABELS.values()), colors=list(COLORS.values()), alpha=0.85)
    _finish(learning, "Responses learned from", "responses per step")
    _save(figure, path)


def _held_out(axes: Axes, evaluations: Mapping[int, Mapping[str, Any]]) -> None:
    names = sorted({name for result in evaluations.values() for name in result if name.startswith("pass@")}, key=_k)
    for index, name in enumerate(names):
        steps = sorted(evaluations)
        mean = [evaluations[step][name]["mean"] for step in steps]
        errors = [
            # Rounding may leave the mean beyond an end by as much.
            [max(0.0, evaluations[step][name]["mean"] - evaluations[step][name]["low"]) for step in steps],
            [max(0.0, evaluations[step][name]["high"] - evaluations[step][name]["mean"]) for step in steps],
        ]
        axes.errorbar(steps, mean, yerr=errors, marker="o", capsize=4, label=name, color=f"C{index}")
    _finish(axes, "Held-out problems (95% interval)", "pass@k")


def _k(name: str) -> int:
    return int(name.removeprefix("pass@"))


def _line(axes: Axes, metrics: Sequence[Mapping[str, float]], name: str, color: str, label: str) -> None:
    points = [(row["step"], row[name]) for row in metrics if name in row]
    if points:
        axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.6)


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    write_atomic(path, picture.getvalue())
