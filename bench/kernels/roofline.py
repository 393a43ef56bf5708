"""The picture of rates under their roofs: FLOP/s of the operators that multiply, bytes/s of the one that reads
logits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.kernels.suites import LARGE, MIDDLE, SMALL

Row = dict[str, Any]
SHAPES = {SMALL.name: "#8250df", MIDDLE.name: "#b35c00", LARGE.name: "#1b6ca8"}
MODES = {"forward": ":", "backward": "--", "both": "-"}
PEER = "#9a9a9a"


@dataclass(frozen=True, slots=True)
class Point:
    shape: str
    tokens: int
    mode: str
    provider: str
    rate: float
    """Rate in TFLOP/s or TB/s."""


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw our rates over the number of tokens, peers as crosses, and as the roof what cuBLAS and a copy reach."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {
        "linear_policy_loss": ("policy loss, three products", "TFLOP/s"),
        "linear_logprob_entropy": ("log-probs and entropy", "TFLOP/s"),
        "logprob_entropy": ("log-probs and entropy of bf16 logits", "TB/s"),
    }
    figure, all_axes = pyplot.subplots(1, 3, figsize=(15, 4.6), layout="constrained")
    for axes, (operator, (title, unit)) in zip(all_axes, panels.items(), strict=True):
        roofs = roofs_of(operator, rows)
        for shape, roof in roofs.items():
            axes.axhline(roof, color=SHAPES[shape], linewidth=0.8, alpha=0.6)
        lines: dict[tuple[str, str], list[Point]] = defaultdict(list)
        for point in points(operator, rows, roofs):
            if point.provider == "fastsvs":
                lines[point.shape, point.mode].append(point)
            elif not point.provider.startswith("fastsvs"):
                axes.plot(point.tokens, point.rate, "x", color=PEER)
        for (shape, mode), line in lines.items():
            line.sort(key=lambda point: point.tokens)
            axes.plot(
                [point.tokens for point in line],
                [point.rate for point in line],
                f"o{MODES[mode]}",
                color=SHAPES[shape],
                label=f"{shape} {mode}",
            )
        axes.set(title=title, xlabel="tokens of a call", ylabel=f"rate in {unit}", xscale="log", ylim=(0, None))
        if lines:
            axes.plot([], [], "x", color=PEER, label="a peer")
            axes.legend(fontsize=7, loc="lower right")
        tokens = sorted({point.tokens for line in lines.values() for point in line})
        axes.set_xticks(tokens, [str(count) for count in tokens])
        axes.minorticks_off()
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def roofs_of(operator: str, rows: Sequence[Row]) -> dict[str, float]:
    """Return the roof by shape: the fastest product of that shape or, for all shapes, the copy."""
    if operator == "logprob_entropy":
        return dict.fromkeys(SHAPES, max((row["value"] for row in rows if row["case"] == "ceilings"), default=0.0))
    products: dict[str, float] = defaultdict(float)
    for row in rows:
        kind, _, shape = row["case"].partition("/")
        if kind == "product" and shape in SHAPES:
            products[shape] = max(products[shape], row["value"])
    return products


def points(operator: str, rows: Sequence[Row], roofs: dict[str, float]) -> Iterator[Point]:
    """Yield the rate of every median that has a floor: the roof times the share of the floor in the time."""
    for row in rows:
        mode, _, kind = row["metric"].partition(", ")
        if kind == "median" and row.get("limit") and row["case"].startswith(f"{operator}/"):
            _operator, shape, tokens = row["case"].split("/")
            if roofs.get(shape):
                yield Point(shape, int(tokens), mode, row["provider"], roofs[shape] * row["limit"] / row["value"])
