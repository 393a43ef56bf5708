"""`python -m bench.overlap.learning --out DIR`: train the demo at three seeds in each order of rollouts and updates.

Its figures say what overlap costs in what is learned: held-out pass@1 and pass@8 after as many steps and about as many
updates. Runs that are finished are only read. The orders with staleness take a vLLM server.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from bench.report import Row, publish
from bench.usage import parser_of
from fastsvs.stored_run import RunLayout, StoredRun

CONFIG = "configs/tiny_svs.yaml"
SERVER = ("rollout.engine=vllm", "rollout.max_sequences=128", "algorithm.rollout_correction=tis")
WAVES = ("train.waves=4", "algorithm.old_logprobs=engine")
ORDERS = {
    "in turn": (),
    "staleness 1": (*SERVER, "train.staleness=1"),
    "staleness 2": (*SERVER, "train.staleness=2"),
    "in turn, several updates": ("algorithm.samples_per_update=288",),
    "4 waves, random": WAVES,
    "4 waves, completed": (*WAVES, "train.wave_order=completed"),
}
"""Overrides of the demo by order. The first three make one update a step, the others about four."""


def main() -> None:
    parser = parser_of("overlap.learning", __doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/overlap"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    rows: list[Row] = []
    for name, overrides in ORDERS.items():
        folders = [train(options.runs, name, overrides, seed) for seed in options.seeds]
        rows += measure(name, [StoredRun(folder) for folder in folders])
    publish("overlap-learning", rows, options.out)


def train(runs: Path, name: str, overrides: Sequence[str], seed: int) -> Path:
    folder = runs / f"{name.replace(' ', '_').replace(',', '')}_seed{seed}"
    if not RunLayout(folder).summary.exists():
        words = ["-m", "fastsvs", "train", CONFIG, *overrides, f"run.dir={folder}", f"run.seed={seed}"]
        subprocess.run([sys.executable, *words], check=True)
    return folder


def measure(name: str, runs: Sequence[StoredRun]) -> Iterator[Row]:
    summaries = [run.summary() for run in runs]
    for metric in summaries[0]["after"]:
        for moment in ("before", "after"):
            values = [summary[moment][metric]["mean"] for summary in summaries]
            for summary, value in zip(summaries, values, strict=True):
                yield Row(f"seed {summary['seed']}", name, f"{metric} {moment}", value, "share")
            yield Row(
                "mean", name, f"{metric} {moment}", mean(values), "share", note=f"sd over seeds {stdev(values):.3f}"
            )
    steps = [row for run in runs for row in run.metrics()]
    for metric, unit in (
        ("policy/updates", "count"),
        ("policy/entropy", "nats/token"),
        ("rollout/version_lag", "steps"),
    ):
        yield Row("mean", name, metric, mean(row[metric] for row in steps), unit)


if __name__ == "__main__":
    main()
