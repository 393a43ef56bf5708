"""A simulation of servers and a trainer over several steps. The division into waves is the real one.

The trainer takes one wave at a time, in order. When it has learned from the last wave of a step, the servers have the
new weights at once, and the steps begin that may; the transfer of weights costs nothing here, in any plan.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

from bench.overlap.plans import Plan
from fastsvs.plan.simulation import Curve, Outcome, SimulatedEngine
from fastsvs.plan.workload import Workload
from fastsvs.rollout import Request, SamplingParams
from fastsvs.selfplay import Group, Task, Waves

LEFT_OUT = 2
"""Number of steps that are begun and not measured, so that the last measured one has company as those before it."""


@dataclass(slots=True)
class Played:
    """One step as far as it has been played."""

    workload: Workload
    waves: Waves
    known: dict[str, Task] = field(default_factory=dict)
    finished: int = 0
    held: list[Group] = field(default_factory=list)
    """Finished groups whose successors were not asked for."""

    def take(self, key: str, phased: bool) -> list[Task]:
        """Note that a group is finished, and return the tasks that follow now."""
        self.finished += 1
        self.held.append(Group(self.known[key], (), (), ()))
        if phased and self.finished < len(self.known):
            return []
        following = [task for group in self.held for task in self.workload.expand(group)]
        self.ask(following)
        for group in self.held:
            self.waves.done(group)
        self.held.clear()
        return following

    def ask(self, tasks: Sequence[Task]) -> None:
        self.known |= {task.key: task for task in tasks}
        self.waves.asked(tasks)


class StepsEngine(SimulatedEngine):
    """An engine of which each request names its step."""

    def __init__(self, workloads: Sequence[Workload], curve: Curve, servers: int, max_sequences: int) -> None:
        super().__init__(workloads[0], curve, servers, max_sequences)
        self._steps = workloads
        self.group_tokens: dict[str, int] = {}

    def length(self, request: Request, sample: int) -> int:
        step, _, key = request.key.partition(":")
        length = self._steps[int(step)].length(replace(request, key=key), sample)
        self.group_tokens[request.key] = self.group_tokens.get(request.key, 0) + length
        return length


def simulate(
    workloads: Sequence[Workload], curve: Curve, servers: int, max_sequences: int, update: float, plan: Plan
) -> Outcome:
    """Return the seconds and response tokens of the steps between the first and the last `LEFT_OUT`, as in a long run.
    Learning takes `update` seconds per response token."""
    engine = StepsEngine(workloads, curve, servers, max_sequences)
    steps: list[Played] = []
    ready: list[deque[float]] = [deque() for _ in workloads]
    """Seconds of learning from each wave that is complete, by step."""
    version, learned, until = 0, 0, inf
    ends: list[float] = []

    def submit(step: int, tasks: Sequence[Task]) -> None:
        sampling, waves = SamplingParams(), steps[step].waves
        engine.submit(
            [
                Request(f"{step}:{task.key}", task.prompt_ids, task.samples, sampling, 0, waves.priority(task))
                for task in tasks
            ]
        )

    def begin_due() -> None:
        for step in range(len(steps), min(version + plan.staleness + 1, len(workloads))):
            tasks = workloads[step].tasks()
            steps.append(Played(workloads[step], plan.divide(tasks, step)))
            steps[step].ask(tasks)
            submit(step, tasks)

    begin_due()
    last = len(workloads) - LEFT_OUT
    while version < last:
        if until <= engine.next_end():
            engine.now, until, learned = until, inf, learned + 1
            if learned == plan.waves:
                version, learned = version + 1, 0
                ends.append(engine.now)
                begin_due()
        else:
            [(name, _)] = engine.poll(0)
            step, _, key = name.partition(":")
            played = steps[int(step)]
            submit(int(step), played.take(key, plan.schedule == "phased"))
            for groups in played.waves.take():
                tokens = sum(engine.group_tokens[f"{step}:{group.task.key}"] for group in groups)
                ready[int(step)].append(tokens * update)
        if until == inf and ready[version]:
            until = engine.now + ready[version].popleft()
    measured = {str(step) for step in range(1, last)}
    tokens = sum(tokens for name, tokens in engine.group_tokens.items() if name.partition(":")[0] in measured)
    return Outcome(ends[-1] - ends[0], tokens)
