"""`python -m bench.demo --seeds 0 1 2 --out bench/results --figure docs/demo.png`: compare SvS and RLVR.

Both are trained from the tiny base at every seed; runs that are finished are only read. The figures are written as
JSON, and a picture is drawn, for light and for dark pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bench.report import Row, publish
from bench.usage import parser_of
from fastsvs.config import TrainJob, load
from fastsvs.stored_run import RunLayout, StoredRun
from fastsvs.telemetry import Theme, draw_themes
from fastsvs.training.loop import train

METHODS = {"SvS": ("configs/tiny_svs.yaml", "green", "-"), "RLVR": ("configs/tiny_rlvr.yaml", "blue", "--")}
"""Configuration, hue and dash of each method."""


def main() -> None:
    parser = parser_of("demo", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    runs = {name: [run_once(config, seed) for seed in options.seeds] for name, (config, _, _) in METHODS.items()}
    rows = [row for name, folders in runs.items() for row in measure(name, folders)]
    publish("demo", rows, options.out)
    draw(options.figure, runs, digest(asdict(row) for row in rows))


def run_once(config: str, seed: int) -> Path:
    folder = Path("runs") / f"{Path(config).stem}_seed{seed}"
    if not RunLayout(folder).summary.exists():
        train(load(TrainJob, config, [f"run.dir={folder}", f"run.seed={seed}"]))
    return folder


def measure(name: str, folders: Sequence[Path]) -> list[Row]:
    """Return before, after and gain of each metric for each seed and for their mean, the entropy, and the run's own
    seconds."""
    summaries = [StoredRun(folder).summary() for folder in folders]
    rows = []
    for metric in summaries[0]["after"]:
        before = [summary["before"][metric]["mean"] for summary in summaries]
        after = [summary["after"][metric]["mean"] for summary in summaries]
        for summary, low, high in zip(summaries, before, after, strict=True):
            rows.append(Row(f"seed {summary['seed']}", name, f"{metric} before", low, "share"))
            rows.append(Row(f"seed {summary['seed']}", name, f"{metric} after", high, "share"))
        rows.append(Row("mean", name, f"{metric} before", mean(before), "share"))
        rows.append(Row("mean", name, f"{metric} after", mean(after), "share"))
        rows.append(Row("mean", name, f"{metric} gain", 100 * (mean(after) - mean(before)), "points"))
    metrics = [StoredRun(folder).metrics() for folder in folders]
    first, last = ([rows[i]["policy/entropy"] for rows in metrics] for i in (0, -1))
    rows.append(Row("mean", name, "entropy in the first step", mean(first), "nats/token"))
    rows.append(Row("mean", name, "entropy in the last step", mean(last), "nats/token"))
    rows.append(Row("median", name, "seconds in training steps", median(s["wall_seconds"] for s in summaries), "s"))
    return rows


def digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a digest of the shares among the rows of a results file, to four digits, for the picture drawn with them:
    a test tells from it whether the picture is stale."""
    shown = [
        [*(row[name] for name in ("case", "provider", "metric")), f"{row['value']:.4g}"]
        for row in rows
        if row["unit"] == "share"
    ]
    return sha256(json.dumps(shown).encode()).hexdigest()


def draw(path: Path, runs: Mapping[str, Sequence[Path]], about: str) -> None:
    """Draw held-out pass@1 and pass@8 and policy entropy against the step, with seeds thin and their mean bold, for
    light and dark pages."""

    def paint(figure: Figure, theme: Theme) -> None:
        panels = dict(zip(("pass@1", "pass@8", "entropy"), figure.subplots(1, 3), strict=True))
        for name, folders in runs.items():
            style = {"color": theme.hues[METHODS[name][1]], "linestyle": METHODS[name][2]}
            for metric in ("pass@1", "pass@8"):
                held_out = [{s: e[metric]["mean"] for s, e in StoredRun(f).evaluations().items()} for f in folders]
                _plot(panels[metric], name, held_out, style)
            entropy = [{row["step"]: row["policy/entropy"] for row in StoredRun(f).metrics()} for f in folders]
            _plot(panels["entropy"], name, entropy, style)
        for metric, axes in panels.items():
            axes.set_title(f"held-out {metric}" if metric.startswith("pass") else "policy entropy, nats per token")
            axes.set_xlabel("step")
            if metric.startswith("pass"):
                axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
                axes.yaxis.set_major_formatter(lambda value, place: f"{100 * value:.0f}%")
        handles, labels = panels["entropy"].get_legend_handles_labels()
        figure.legend(
            *(handles, labels),
            loc="outside upper center",
            ncols=len(labels),
            labelcolor=theme.ink,
            framealpha=0.0,
        )

    draw_themes(path, (12, 4), paint, about)


def _plot(axes: Axes, name: str, curves: Sequence[Mapping[int, Any]], style: Mapping[str, Any]) -> None:
    steps = sorted(curves[0])
    for curve in curves:
        axes.plot(steps, [curve[step] for step in steps], alpha=0.35, linewidth=0.9, **style)
    axes.plot(steps, [mean(curve[step] for curve in curves) for step in steps], linewidth=2.4, label=name, **style)


if __name__ == "__main__":
    main()
