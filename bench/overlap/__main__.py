"""`python -m bench.overlap --out DIR`: compare the orders of rollouts and updates over several steps.

`overlap-*.json` has what two real vLLM servers and a trainer that only waits did, where vLLM is in the environment.
`overlap-simulated-*.json` has a cluster for 32B with assumed costs.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from bench.overlap import real
from bench.overlap.plans import PHASED, PLANS, Plan
from bench.overlap.simulation import LEFT_OUT, simulate
from bench.report import Row, publish
from bench.rollout.simulated_cluster import FLOPS, MAX_SEQUENCES, PARAMETERS, curve
from bench.usage import parser_of
from fastsvs.plan.simulation import Outcome
from fastsvs.plan.workload import Lengths, Workload

STEPS = 5
LEARNED = 0.6
"""Assumed share of the response tokens that are learned from."""
UPDATE_FLOPS = 8 * PARAMETERS
"""Operations of an update per token learned from: forward, backward, and forward again (recomputation)."""
REACHED = 0.8
"""Assumed ratio of the FLOPs that training reaches to those that `simulated_cluster` assumes, 50% of the peak."""
CLUSTERS = ((4, 1000), (4, 2500), (8, 1000), (16, 1000))
"""Servers of four GPUs, with as many GPUs for training, and the median length of a response in tokens."""
MEASURED = "models/tiny, two vLLM servers on a CPU, an update that only waits"


def main() -> None:
    parser = parser_of("overlap", __doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds on the real servers")
    options = parser.parse_args()
    publish("overlap-simulated", list(on_simulated_cluster()), options.out)
    if not importlib.util.find_spec("vllm"):
        print("vLLM is absent: only simulated")
        return
    with tempfile.TemporaryDirectory() as folder:
        taken, update = real.measure(Path(folder), PLANS, options.rounds)
    publish("overlap", list(on_real_servers(taken, update)), options.out)


def on_simulated_cluster() -> Iterator[Row]:
    for servers, length in CLUSTERS:
        workload = Workload(prompts=256, samples=8, lengths=Lengths(length, 10, 8192, 0.5))
        steps, costs = workload.steps(STEPS + LEFT_OUT), curve(300 + length)
        update = UPDATE_FLOPS * LEARNED / (servers * FLOPS * REACHED)
        outcomes = {plan: simulate(steps, costs, servers, MAX_SEQUENCES, update, plan) for plan in PLANS}
        case = f"simulated 32B, {4 * servers} + {4 * servers} H100, median {length} tokens"
        yield from figures(case, "simulated with assumed costs", outcomes, STEPS - 1)


def on_real_servers(taken: Mapping[Plan, Sequence[tuple[Outcome, float]]], update: float) -> Iterator[Row]:
    yield Row(MEASURED, "vLLM", "update for each response token, set", update, "s")
    steps = len(real.STEPS) - LEFT_OUT - 1
    middle = {plan: sorted(rounds, key=lambda one: one[0].seconds)[len(rounds) // 2] for plan, rounds in taken.items()}
    yield from figures(MEASURED, "vLLM", {plan: outcome for plan, (outcome, _) in middle.items()}, steps)
    for plan, rounds in taken.items():
        yield Row(MEASURED, "vLLM", f"{plan.name}: time without rollouts", median(idle for _, idle in rounds), "share")


def figures(case: str, provider: str, outcomes: Mapping[Plan, Outcome], steps: int) -> Iterator[Row]:
    for plan, outcome in outcomes.items():
        yield Row(case, provider, f"{plan.name}: a step", outcome.seconds / steps, "s")
        yield Row(case, provider, f"{plan.name}: tokens per second", outcome.rate, "tokens/s")
        if plan is not PHASED:
            yield Row(case, provider, f"{plan.name} / phased", outcome.rate / outcomes[PHASED].rate, "ratio")


if __name__ == "__main__":
    main()
