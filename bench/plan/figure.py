"""The pictures of docs/plan.md: what a GPU holds, rank by rank, and what a step's seconds go to.

Each picture holds the digest of what it shows, so that a test can say when it is stale without drawing it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fastsvs.plan import GIB, JobPlan, Line
from fastsvs.telemetry import Theme, draw_themes

Colour = tuple[float, float, float]
PARTS: Mapping[str, tuple[str, float]] = {
    "weights": ("blue", 1.0),
    "gradients": ("blue", 0.6),
    "masters and moments": ("blue", 0.3),
    "activations and logits": ("orange", 0.8),
    "buckets, CUDA, NCCL, fragments": ("purple", 0.6),
    "server: weights": ("green", 1.0),
    "server: graphs, activations, asleep": ("green", 0.6),
    "server: cache": ("green", 0.3),
}
"""Hue and strength of what a GPU holds."""
PHASES: Mapping[str, tuple[str, float]] = {
    "sync": ("purple", 0.8),
    "rollout": ("green", 0.6),
    "credit": ("red", 0.4),
    "update": ("blue", 0.7),
    "diagnostics": ("orange", 0.8),
    "save": ("red", 0.8),
}
"""Hue and strength of the phases, in their order within a step."""
NARROW = 0.055
"""Share of the widest bar from which on a piece of it has room for its number."""


@dataclass(frozen=True)
class Bar:
    """One bar, cut into pieces."""

    label: str
    pieces: Sequence[tuple[str, float, float]]
    """Part, and where it begins and how long it is: in GiB or in seconds."""


@dataclass(frozen=True)
class Panel:
    """Bars under a title."""

    title: str
    bars: Sequence[Bar]


def memory_panel(name: str, where: str, plan: JobPlan) -> Panel:
    """Return what a rank of each pipeline stage, and a server's GPU, holds at its moments."""
    memory, stages = plan.memory, len(plan.memory.ranks)
    engine = memory.engine
    assert engine is not None
    bars = []
    for rank in memory.ranks:
        which = f"stage {rank.stage}, " if stages > 1 else ""
        asleep = engine.asleep if memory.beside else ()
        bars.append(_stacked(f"{which}update", [*rank.learning, *asleep]))
    for rank in memory.ranks if memory.beside else ():
        which = f"stage {rank.stage}, " if stages > 1 else ""
        bars.append(_stacked(f"{which}rollout", [*rank.publishing, *engine.lines]))
    if not memory.beside:
        bars.append(_stacked("server", engine.lines))
    return Panel(f"{name}: {where}", bars)


def time_panel(name: str, where: str, plan: JobPlan) -> Panel:
    """Return when the phases of a step happen: of servers beside the trainer on a line of their own."""
    time = plan.time
    order = [phase for phase in PHASES if time.seconds(phase)]
    title = f"{name}: {where}, {time.step:,.0f} s a step"
    if not time.overlapped:
        return Panel(title, [_line("all GPUs", [(phase, time.seconds(phase)) for phase in order])])
    own = [(phase, time.seconds(phase)) for phase in order if phase != "rollout"]
    sync = [(phase, seconds) for phase, seconds in own if phase == "sync"]
    servers = [*sync, ("rollout", time.seconds("rollout"))]
    return Panel(title, [_line("trainers", own), _line("servers", servers)])


def draw_memory(path: Path, panels: Sequence[Panel], capacity: float) -> list[Path]:
    """Draw the memory of GPUs of `capacity` GiB for light and dark pages, and return both paths."""

    def paint(figure: Figure, theme: Theme) -> None:
        bars = [len(panel.bars) for panel in panels]
        every = figure.subplots(len(panels), 1, sharex=True, height_ratios=[count + 0.6 for count in bars])
        for axes, panel in zip(every, panels, strict=True):
            _bars(axes, panel, PARTS, theme, capacity)
            axes.axvline(capacity, color=theme.hues["red"], linewidth=1.5)
            axes.set_xlim(0, capacity * 1.02)
        every[-1].set_xlabel(f"GiB of a GPU; the red line is all {capacity:.1f} of an H100")
        _legend(figure, PARTS, theme)

    return draw_themes(path, (10, 8.2), paint, digest(panels))


def draw_time(path: Path, panels: Sequence[Panel]) -> list[Path]:
    """Draw the time lines for light and dark pages, and return both paths."""

    def paint(figure: Figure, theme: Theme) -> None:
        bars = [len(panel.bars) for panel in panels]
        every = figure.subplots(len(panels), 1, sharex=True, height_ratios=[count + 0.8 for count in bars])
        longest = max(start + length for panel in panels for bar in panel.bars for _, start, length in bar.pieces)
        for axes, panel in zip(every, panels, strict=True):
            _bars(axes, panel, PHASES, theme, longest)
            axes.set_xlim(0, longest * 1.02)
        every[-1].set_xlabel("seconds of a step")
        shown = {part for panel in panels for bar in panel.bars for part, _, _ in bar.pieces}
        _legend(figure, {phase: kind for phase, kind in PHASES.items() if phase in shown}, theme)

    return draw_themes(path, (10, 5.6), paint, digest(panels))


def digest(panels: Sequence[Panel]) -> str:
    """Return a digest of what a picture shows, to three digits."""
    shown = [
        [
            panel.title,
            [[bar.label, [[part, f"{a:.3g}", f"{b:.3g}"] for part, a, b in bar.pieces]] for bar in panel.bars],
        ]
        for panel in panels
    ]
    return sha256(json.dumps(shown).encode()).hexdigest()


def _stacked(label: str, lines: Sequence[Line]) -> Bar:
    sums = dict.fromkeys(PARTS, 0.0)
    for line in lines:
        sums[_part(line.name)] += line.amount / GIB
    return _line(label, [(part, amount) for part, amount in sums.items() if amount > 0])


def _line(label: str, amounts: Sequence[tuple[str, float]]) -> Bar:
    pieces, start = [], 0.0
    for part, amount in amounts:
        pieces.append((part, start, amount))
        start += amount
    return Bar(label, pieces)


def _part(name: str) -> str:
    """Return the part that a line of a plan's memory belongs to."""
    if name.startswith("server"):
        known = {"server: weights": name, "server: cache of keys and values": "server: cache"}
        return known.get(name, "server: graphs, activations, asleep")
    if name in ("masters", "moments"):
        return "masters and moments"
    if name.startswith(("activations", "logits", "a layer")):
        return "activations and logits"
    return name if name in PARTS else "buckets, CUDA, NCCL, fragments"


def _bars(axes: Axes, panel: Panel, parts: Mapping[str, tuple[str, float]], theme: Theme, whole: float) -> None:
    for place, bar in enumerate(panel.bars):
        for part, start, length in bar.pieces:
            colour = _colour(parts[part], theme)
            axes.barh(place, length, 0.72, left=start, color=colour, linewidth=0)
            if length > NARROW * whole:
                ink = max(theme.ink, theme.paper, key=lambda ink: abs(_light(to_rgb(ink)) - _light(colour)))
                middle = start + length / 2
                axes.text(middle, place, f"{length:.3g}", ha="center", va="center", color=ink, fontsize=8.5)
    axes.set_yticks(range(len(panel.bars)), [bar.label for bar in panel.bars])
    axes.invert_yaxis()
    axes.set_title(panel.title, fontsize=10, loc="left", color=theme.ink)
    axes.set_axisbelow(True)


def _colour(kind: tuple[str, float], theme: Theme) -> Colour:
    """Return a hue of the theme, so strong, on its paper."""
    hue, strength = kind
    over, under = to_rgb(theme.hues[hue]), to_rgb(theme.paper)
    red, green, blue = (strength * a + (1 - strength) * b for a, b in zip(over, under, strict=True))
    return red, green, blue


def _light(colour: Colour) -> float:
    """Return how light a colour looks, from 0 to 1."""
    red, green, blue = colour
    return 0.3 * red + 0.59 * green + 0.11 * blue


def _legend(figure: Figure, parts: Mapping[str, tuple[str, float]], theme: Theme) -> None:
    patches = [Patch(color=_colour(kind, theme), linewidth=0, label=part) for part, kind in parts.items()]
    legend = figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.ink)
