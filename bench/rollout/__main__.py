"""`python -m bench.rollout --out DIR`: streaming against phased, simulated at 32B scale and on a real vLLM server.

The real part needs vLLM in the environment and is left out, and said so, without it. Its own simulation, on the
throughput curve measured just before, stands beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import get_args

from bench.report import Row, write
from bench.rollout.cluster import CASES, MAX_SEQUENCES
from bench.rollout.simulation import simulate
from fastsvs.selfplay.collect import Schedule

SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--rounds", type=int, default=5, help="measured steps of each schedule on the real server")
    options = parser.parse_args()
    rows = list(simulated())
    if importlib.util.find_spec("vllm"):
        with tempfile.TemporaryDirectory() as folder:
            rows += real(Path(folder), options.rounds)
    else:
        print("vLLM is absent: only simulated")
    for row in rows:
        print(f"{row.case:45s} {row.provider:12s} {row.metric:38s} {row.value:12.4f} {row.unit}")
    print(write("rollout", rows, options.out))


def simulated() -> Iterator[Row]:
    for case in CASES:
        outcomes = {s: simulate(case.workload, case.curve, case.servers, MAX_SEQUENCES, s) for s in SCHEDULES}
        for schedule, outcome in outcomes.items():
            yield Row(case.name, "simulation", f"{schedule}: tokens per second", outcome.rate, "tokens/s")
            yield Row(case.name, "simulation", f"{schedule}: seconds of a rollout", outcome.seconds, "s")
            yield Row(case.name, "simulation", f"{schedule}: utilisation", outcome.utilisation, "share", limit=1.0)
        ratio = outcomes["streaming"].rate / outcomes["phased"].rate
        yield Row(case.name, "simulation", "streaming / phased", ratio, "ratio")


def real(folder: Path, rounds: int) -> Iterator[Row]:
    from bench.rollout.real import MAX_SEQUENCES, WORKLOAD, measure_curve, play, server

    name = "models/tiny, one vLLM server on a CPU"
    seconds: dict[Schedule, list[float]] = {schedule: [] for schedule in SCHEDULES}
    with server(folder) as engine:
        play(engine, "phased")  # warms up
        curve = measure_curve(engine, rounds)
        for _ in range(rounds):
            for schedule in SCHEDULES:
                taken, tokens = play(engine, schedule)
                seconds[schedule].append(taken)
    for sequences, step in zip(curve.sequences, curve.seconds, strict=True):
        yield Row(name, "vLLM", f"decode step of {sequences} sequences", step, "s")
    yield Row(name, "vLLM", "response tokens of a rollout", tokens, "count")
    for schedule in SCHEDULES:
        rate = tokens / median(seconds[schedule])
        yield Row(name, "vLLM", f"{schedule}: tokens per second", rate, "tokens/s")
        yield Row(name, "vLLM", f"{schedule}: utilisation", rate / curve.rate(MAX_SEQUENCES), "share", limit=1.0)
        predicted = simulate(WORKLOAD, curve, 1, MAX_SEQUENCES, schedule)
        yield Row(name, "simulation", f"{schedule}: tokens per second", predicted.rate, "tokens/s")
    predicted = [simulate(WORKLOAD, curve, 1, MAX_SEQUENCES, schedule).seconds for schedule in SCHEDULES]
    ratios = [phased / streaming for streaming, phased in zip(seconds["streaming"], seconds["phased"], strict=True)]
    yield Row(name, "vLLM", "streaming / phased", median(ratios), "ratio")
    yield Row(name, "simulation", "streaming / phased", predicted[1] / predicted[0], "ratio")


if __name__ == "__main__":
    main()
