"""`python -m bench.rollout --out DIR`: compare streaming with phased self-play, simulated and on a real vLLM server.

`rollout-*.json` has what a real server did, where vLLM is in the environment. `rollout-simulated-*.json` has what no
server did: that server once more, simulated with the costs measured on it, and a cluster for 32B with assumed costs.
`rollout-deterministic-*.json` has what the local engine and the policy cost with `rollout.deterministic` and without,
and `rollout-modes-*.json` a vLLM server that guesses tokens, computes in 8 bits, or is batch-invariant.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.report import Row, publish
from bench.rollout import deterministic, modes, real, simulated_cluster
from bench.usage import parser_of
from fastsvs.plan import SCHEDULES, Curve, Outcome, simulate, together
from fastsvs.selfplay.collect import Schedule

SIMULATED_STEPS = 3
ASSUMED_COSTS, MEASURED_COSTS = "simulated with assumed costs", "simulated with measured costs"
"""Providers of the simulated rows."""
SERVER = "models/tiny, one vLLM server on a CPU"


def main() -> None:
    parser = parser_of("rollout", __doc__)
    parser.add_argument("--rounds", type=int, default=6, help="measurements of each schedule on the real server")
    parser.add_argument("--model", type=Path, default=Path("models/tiny"), help="folder of the model of `--part modes`")
    parser.add_argument("--tokens", type=int, default=128, help="of each response of `--part modes` (%(default)s)")
    parser.add_argument("--part", choices=PARTS, help="one part alone; all of them where it is left out")
    options = parser.parse_args()
    for part in [options.part] if options.part else PARTS:
        PARTS[part](options)


def schedules(options: argparse.Namespace) -> None:
    """Measure the schedules of self-play, and simulate them."""
    simulated = list(on_simulated_cluster())
    if importlib.util.find_spec("vllm"):
        with tempfile.TemporaryDirectory() as folder:
            curve, played = real.measure(Path(folder), options.rounds)
        publish("rollout", list(on_real_server(curve, played)), options.out)
        simulated += on_simulated_server(curve)
    else:
        print("vLLM is absent: only simulated")
    publish("rollout-simulated", simulated, options.out)


def determinism(options: argparse.Namespace) -> None:
    """Measure what `rollout.deterministic` costs on a CPU."""
    publish("rollout-deterministic", list(deterministic.measure(options.rounds)), options.out)


def server_modes(options: argparse.Namespace) -> None:
    """Measure the modes of a vLLM server that this machine has."""
    if importlib.util.find_spec("vllm"):
        rows = list(modes.measure(options.model, options.tokens, options.rounds))
        publish("rollout-modes", rows, options.out)
    else:
        print("vLLM is absent: no modes of its servers")


def on_simulated_cluster() -> Iterator[Row]:
    for case in simulated_cluster.CASES:
        steps, most = case.workload.steps(SIMULATED_STEPS), simulated_cluster.MAX_SEQUENCES
        outcomes = {s: simulate(steps, case.curve, case.servers, most, s) for s in SCHEDULES}
        yield from figures(case.name, ASSUMED_COSTS, outcomes, case.servers * case.curve.rate(most))


def on_real_server(curve: Curve, played: Mapping[Schedule, Sequence[real.Played]]) -> Iterator[Row]:
    for sequences, seconds in zip(curve.sequences, curve.seconds, strict=True):
        yield Row(SERVER, "vLLM", f"decode step of {sequences} sequences", seconds, "s")
    yield Row(SERVER, "vLLM", "taking a sequence in", curve.admission, "s")
    outcomes = {s: together([step.outcome for step in steps]) for s, steps in played.items()}
    yield from figures(SERVER, "vLLM", outcomes, curve.rate(real.MAX_SEQUENCES))
    yield from counted(SERVER, "vLLM", {s: sum(step.decode_steps for step in steps) for s, steps in played.items()})


def on_simulated_server(curve: Curve) -> Iterator[Row]:
    most = real.MAX_SEQUENCES
    outcomes = {s: simulate(real.STEPS, curve, 1, most, s) for s in SCHEDULES}
    yield from figures(SERVER, MEASURED_COSTS, outcomes, curve.rate(most))
    one_second = Curve((1, most), (1.0, 1.0))
    decode_steps = {s: simulate(real.STEPS, one_second, 1, most, s).seconds for s in SCHEDULES}
    yield from counted(SERVER, MEASURED_COSTS, decode_steps)


def counted(case: str, provider: str, steps: Mapping[Schedule, float]) -> Iterator[Row]:
    for schedule, count in steps.items():
        yield Row(case, provider, f"{schedule}: decode steps", count, "count")
    yield Row(case, provider, "decode steps, phased / streaming", steps["phased"] / steps["streaming"], "ratio")


def figures(case: str, provider: str, outcomes: Mapping[Schedule, Outcome], full: float) -> Iterator[Row]:
    """Yield the figures of each schedule; `full` is the tokens per second with as many sequences decoding as servers
    allow."""
    for schedule, outcome in outcomes.items():
        yield Row(case, provider, f"{schedule}: response tokens", outcome.tokens, "count")
        yield Row(case, provider, f"{schedule}: tokens per second", outcome.rate, "tokens/s", limit=full)
        yield Row(case, provider, f"{schedule}: utilisation", outcome.rate / full, "share", limit=1.0)
    yield Row(case, provider, "streaming / phased", outcomes["streaming"].rate / outcomes["phased"].rate, "ratio")


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "schedules": schedules,
    "deterministic": determinism,
    "modes": server_modes,
}


if __name__ == "__main__":
    main()
