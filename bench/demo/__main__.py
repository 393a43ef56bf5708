"""`python -m bench.demo --seeds 0 1 2 --out bench/results --figure docs/demo.png`: compare SvS and RLVR.

Both are trained from the tiny base at every seed; runs that are finished are only read. The figures are written as
JSON, and one picture is drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.report import Row, publish
from fastsvs.config import TrainJob, load
from fastsvs.stored_run import RunLayout, StoredRun
from fastsvs.training.loop import train

METHODS = {"SvS": ("configs/tiny_svs.yaml", "#33996b"), "RLVR": ("configs/tiny_rlvr.yaml", "#3366aa")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--figure", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    runs = {name: [run_once(config, seed) for seed in options.seeds] for name, (config, _) in METHODS.items()}
    rows = [row for name, folders in runs.items() for row in measure(name, folders)]
    publish("demo", rows, options.out)
    draw(options.figure, runs)


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


def draw(path: Path, runs: Mapping[str, Sequence[Path]]) -> None:
    """Draw held-out pass@1 and pass@8 and policy entropy against the step, with seeds thin and their mean bold."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = dict(zip(("pass@1", "pass@8", "entropy"), figure.subplots(1, 3), strict=True))
    for name, folders in runs.items():
        for metric in ("pass@1", "pass@8"):
            held_out = [{step: e[metric]["mean"] for step, e in StoredRun(f).evaluations().items()} for f in folders]
            _plot(panels[metric], name, held_out)
        entropy = [{row["step"]: row["policy/entropy"] for row in StoredRun(f).metrics()} for f in folders]
        _plot(panels["entropy"], name, entropy)
    for metric, axes in panels.items():
        axes.set_title(f"held-out {metric}" if metric.startswith("pass") else "policy entropy, nats per token")
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.legend()
    figure.savefig(path, dpi=110)


def _plot(axes: Axes, name: str, curves: Sequence[Mapping[int, Any]]) -> None:
    color = METHODS[name][1]
    steps = sorted(curves[0])
    for curve in curves:
        axes.plot(steps, [curve[step] for step in steps], color=color, alpha=0.3, linewidth=0.9)
    axes.plot(steps, [mean(curve[step] for curve in curves) for step in steps], color=color, linewidth=2.2, label=name)


if __name__ == "__main__":
    main()
