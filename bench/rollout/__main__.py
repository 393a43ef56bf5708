"""`python -m bench.rollout --out DIR`: compare streaming with phased self-play, simulated and on a real vLLM server.

The simulation is at 32B scale. The real part needs vLLM in the environment and is left out, with a message, without it.
Its own simulation, on the throughput curve measured just before, stands beside it.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from bench.report import Row, write
from bench.rollout.cluster import CASES, MAX_SEQUENCES
from bench.rollout.simulation import Curve, Outcome, simulate, together
from fastsvs.selfplay.collect import Schedule

SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
SIMULATED_STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON file")
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each schedule on the real server")
    options = parser.parse_args()
    rows: list[Row] = list(simulated())
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
        steps = case.workload.steps(SIMULATED_STEPS)
        outcomes = {s: simulate(steps, case.curve, case.servers, MAX_SEQUENCES, s) for s in SCHEDULES}
        yield from figures(case.name, "simulation", outcomes, case.servers * case.curve.rate(MAX_SEQUENCES))


def real(folder: Path, rounds: int) -> Iterator[Row]:
    """Yield the fastest of `rounds` of each step and schedule, which other work on the machine disturbed least."""
    from bench.rollout.real import MAX_SEQUENCES, STEPS, measure_curve, play, server

    name = "models/tiny, one vLLM server on a CPU"
    played: dict[Schedule, list[list[tuple[Outcome, int]]]] = {schedule: [[] for _ in STEPS] for schedule in SCHEDULES}
    with server(folder) as served:
        play(served, STEPS[0], "phased")  # warms up
        curve = measure_curve(served, rounds)
        for _ in range(rounds):
            for number, step in enumerate(STEPS):
                for schedule in SCHEDULES:
                    played[schedule][number].append(play(served, step, schedule))
    for sequences, seconds in zip(curve.sequences, curve.seconds, strict=True):
        yield Row(name, "vLLM", f"decode step of {sequences} sequences", seconds, "s")
    yield Row(name, "vLLM", "taking a sequence in", curve.admission, "s")
    full = curve.rate(MAX_SEQUENCES)
    best = {s: [min(runs, key=lambda run: run[0].seconds) for runs in steps] for s, steps in played.items()}
    yield from figures(name, "vLLM", {s: together([outcome for outcome, _ in runs]) for s, runs in best.items()}, full)
    yield from counted(name, "vLLM", {s: sum(decoded for _, decoded in runs) for s, runs in best.items()})
    yield from figures(name, "simulation", {s: simulate(STEPS, curve, 1, MAX_SEQUENCES, s) for s in SCHEDULES}, full)
    one_second = Curve((1, MAX_SEQUENCES), (1.0, 1.0))
    decoded = {s: simulate(STEPS, one_second, 1, MAX_SEQUENCES, s).seconds for s in SCHEDULES}
    yield from counted(name, "simulation", decoded)


def counted(case: str, provider: str, steps: dict[Schedule, float]) -> Iterator[Row]:
    for schedule, count in steps.items():
        yield Row(case, provider, f"{schedule}: decode steps", count, "count")
    yield Row(case, provider, "decode steps, phased / streaming", steps["phased"] / steps["streaming"], "ratio")


def figures(case: str, provider: str, outcomes: dict[Schedule, Outcome], full: float) -> Iterator[Row]:
    """Yield the figures of each schedule; `full` is the tokens per second with as many sequences decoding as servers
    allow."""
    for schedule, outcome in outcomes.items():
        yield Row(case, provider, f"{schedule}: response tokens", outcome.tokens, "count")
        yield Row(case, provider, f"{schedule}: tokens per second", outcome.rate, "tokens/s", limit=full)
        yield Row(case, provider, f"{schedule}: utilisation", outcome.rate / full, "share", limit=1.0)
    yield Row(case, provider, "streaming / phased", outcomes["streaming"].rate / outcomes["phased"].rate, "ratio")


if __name__ == "__main__":
    main()
