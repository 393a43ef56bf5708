"""Style that the pictures on light and dark pages share."""

from __future__ import annotations

from matplotlib.axes import Axes


def dress(axes: Axes, ink: str, paper: str) -> None:
    """Draw grid, frame and words in the colour `ink`."""
    axes.set_facecolor(paper)
    axes.tick_params(colors=ink)
    axes.grid(alpha=0.25, color=ink)
    for text in (axes.title, axes.xaxis.label):
        text.set_color(ink)
    for spine in axes.spines.values():
        spine.set_color(ink)
