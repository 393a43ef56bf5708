"""Pictures for light and dark pages."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastsvs.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Theme:
    """Colours of one kind of page."""

    ending: str
    """End of the file's name."""
    ink: str
    paper: str
    hues: Mapping[str, str]


LIGHT = Theme(
    ending=".png",
    ink="#24292f",
    paper="#ffffff",
    hues={"green": "#1a7f4b", "blue": "#2f5fb3", "orange": "#b35c00", "red": "#b3283a", "purple": "#8250df"},
)
DARK = Theme(
    ending="-dark.png",
    ink="#c9d1d9",
    paper="#0d1117",
    hues={"green": "#56d364", "blue": "#79b0ff", "orange": "#f0a04b", "red": "#ff7b85", "purple": "#d2a8ff"},
)


def draw_themes(
    path: Path, size: tuple[float, float], paint: Callable[[Figure, Theme], None], about: str | None = None
) -> list[Path]:
    """Draw `path` for light pages and `<stem>-dark.png` for dark ones, in inches of 90 pixels, and return both paths.
    `about` stands inside the files, as their description."""
    from matplotlib.figure import Figure  # takes most of a second, and one rank of a run needs it once

    written = []
    for theme in (LIGHT, DARK):
        figure = Figure(figsize=size, layout="constrained", facecolor=theme.paper)
        paint(figure, theme)
        for axes in figure.axes:
            _dress(axes, theme)
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=90, metadata={"Description": about} if about else None)
        written.append(path.with_name(path.stem + theme.ending))
        write_atomic(written[-1], picture.getvalue())
    return written


def legend_above(axes: Axes, theme: Theme) -> None:
    """Draw the axes' legend, if they have any, between them and their title, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.set_title(axes.get_title(), pad=24)
        axes.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=len(labels),
            labelcolor=theme.ink,
            frameon=False,
            fontsize=9,
        )


def _dress(axes: Axes, theme: Theme) -> None:
    """Draw grid, frame and words in the theme's colours."""
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink)
    axes.grid(alpha=0.25, color=theme.ink)
    for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
        text.set_color(theme.ink)
    for spine in axes.spines.values():
        spine.set_color(theme.ink)
