"""Draws a run in one picture: held-out pass@k, solve rates, entropy, and what was learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsvs.telemetry.themes import Theme, draw_themes, legend_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "original": ("data-set problems", "blue"),
    "synthesis": ("problems written", "orange"),
    "variant": ("own problems solved", "green"),
}
"""Label and hue of each kind of experience."""
HELD_OUT = ("blue", "orange", "green", "purple", "red")
"""Hues of pass@k, by k; more ks begin anew with another dash."""
DASHES = ("-", "--", ":")


def draw_curves(
    path: Path, title: str, metrics: Sequence[Mapping[str, float]], evaluations: Mapping[int, Mapping[str, Any]]
) -> list[Path]:
    """Write PNGs for light and dark pages from the rows of metrics.jsonl and the evaluations by step, and return their
    paths."""

    def paint(figure: Figure, theme: Theme) -> None:
        (held_out, solving), (entropy, learning) = figure.subplots(2, 2)
        figure.suptitle(title, color=theme.ink)
        _held_out(held_out, evaluations, theme)
        _finish(held_out, "Held-out problems (95% interval)", "pass@k", theme)
        for kind in ("original", "variant"):
            label, hue = KINDS[kind]
            _line(solving, metrics, f"solve_rate/{kind}", theme.hues[hue], label)
        _finish(solving, "Mean solve rate in training", "share correct", theme)
        _line(entropy, metrics, "policy/entropy", theme.hues["purple"], None)
        _finish(entropy, "Policy entropy", "nats per token", theme)
        _learning(learning, metrics, theme)
        _finish(learning, "Responses learned from", "responses per step", theme)

    return draw_themes(path, (12, 8), paint)


def _held_out(axes: Axes, evaluations: Mapping[int, Mapping[str, Any]], theme: Theme) -> None:
    names = sorted({name for result in evaluations.values() for name in result if name.startswith("pass@")}, key=_k)
    for index, name in enumerate(names):
        steps = sorted(evaluations)
        mean = [evaluations[step][name]["mean"] for step in steps]
        errors = [
            # Rounding may leave the mean beyond an end by as much.
            [max(0.0, evaluations[step][name]["mean"] - evaluations[step][name]["low"]) for step in steps],
            [max(0.0, evaluations[step][name]["high"] - evaluations[step][name]["mean"]) for step in steps],
        ]
        hue, dash = HELD_OUT[index % len(HELD_OUT)], DASHES[index // len(HELD_OUT) % len(DASHES)]
        axes.errorbar(
            *(steps, mean), yerr=errors, marker="o", capsize=4, label=name, color=theme.hues[hue], linestyle=dash
        )


def _k(name: str) -> int:
    return int(name.removeprefix("pass@"))


def _line(axes: Axes, metrics: Sequence[Mapping[str, float]], name: str, color: str, label: str | None) -> None:
    points = [(row["step"], row[name]) for row in metrics if name in row]
    if points:
        axes.plot(*zip(*points, strict=True), color=color, label=label, linewidth=1.8)


def _learning(axes: Axes, metrics: Sequence[Mapping[str, float]], theme: Theme) -> None:
    steps = [row["step"] for row in metrics]
    counts = [[row.get(f"kept_samples/{kind}", 0.0) for row in metrics] for kind in KINDS]
    if steps:
        labels, hues = zip(*KINDS.values(), strict=True)
        axes.stackplot(steps, counts, labels=labels, colors=[theme.hues[hue] for hue in hues], alpha=0.85)


def _finish(axes: Axes, title: str, unit: str, theme: Theme) -> None:
    axes.set_title(title, fontsize=12)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    legend_above(axes, theme)
