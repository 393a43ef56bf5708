"""The same on two real vLLM servers. The trainer in it is a wait, of as many seconds as an update would take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from bench.overlap.plans import Plan
from bench.overlap.simulation import LEFT_OUT
from bench.rollout.real import WORKLOAD, name_weights, serving_spec
from fastsvs.plan.simulation import Outcome
from fastsvs.plan.workload import Instantly, Workload
from fastsvs.rollout import Inference, Rollouts, Running, SamplingParams, VllmEngine
from fastsvs.selfplay import Experience, play

SERVERS = 2
STEPS = replace(WORKLOAD, prompts=80).steps(3 + LEFT_OUT)


class Labels:
    """A sync that gives the servers' weights, which stay as they are, their new version while they work."""

    def __init__(self, engine: VllmEngine) -> None:
        self._engine = engine

    def publish(self, version: int) -> None:
        name_weights(self._engine, version)

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...


def measure(folder: Path, plans: Sequence[Plan], rounds: int) -> tuple[dict[Plan, list[tuple[Outcome, float]]], float]:
    """Return seconds, tokens and the engine's idle share of every round of each plan, and the seconds of learning per
    response token: as many as rollouts alone took, in phases."""
    engine = VllmEngine.build(serving_spec(folder, SERVERS))
    with closing(engine), closing(Rollouts(engine, Labels(engine), 600.0)) as rollouts:
        run(rollouts, plans[0], 0.0, STEPS[:3])  # warms up
        alone, _ = run(rollouts, plans[0], 0.0)
        update = alone.seconds / alone.tokens
        taken: dict[Plan, list[tuple[Outcome, float]]] = {plan: [] for plan in plans}
        for _ in range(rounds):
            for plan in plans:
                taken[plan].append(run(rollouts, plan, update))
    return taken, update


def run(rollouts: Rollouts, plan: Plan, update: float, steps: Sequence[Workload] = STEPS) -> tuple[Outcome, float]:
    """Play and learn as `fastsvs.training.loop` does, and return what `bench.overlap.simulation.simulate` returns, and
    the share of that time in which the engine had nothing to do."""
    underway: list[Running[Experience]] = []
    ends: list[float] = []
    tokens = 0
    last = len(steps) - LEFT_OUT
    for step in range(last):
        rollouts.sync.publish(step)
        for due in range(len(underway), step + plan.staleness + 1):
            underway.append(rollouts.start_parts(work(steps[due], due, plan)))
        for _ in range(plan.waves):
            experience = underway[step].part(step)
            assert experience is not None
            learned = sum(len(one.response_ids) for group in experience.groups for one in group.rollouts)
            time.sleep(learned * update)
            tokens += learned if step else 0
        ends.append(perf_counter())
        if not step:
            rollouts.idle_share()
    idle = rollouts.idle_share()
    for rest in underway:
        rest.wait(last)
    return Outcome(ends[-1] - ends[0], tokens), idle


def work(workload: Workload, step: int, plan: Plan) -> Callable[[Inference, Callable[[], bool]], Iterator[Experience]]:
    def played(engine: Inference, cancelled: Callable[[], bool]) -> Iterator[Experience]:
        tasks = workload.tasks()
        sampling = SamplingParams(max_tokens=workload.lengths.limit)
        waves = plan.divide(tasks, step)
        return play(
            workload,
            tasks,
            engine,
            Instantly(),
            lambda ids: "",
            sampling,
            workload.seed,
            waves=waves,
            schedule=plan.schedule,
            cancelled=cancelled,
        )

    return played
