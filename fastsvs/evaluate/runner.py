"""Sample every problem of a set n times and verify."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastsvs.config import RolloutConfig, SamplingPlan
from fastsvs.data.records import Problem
from fastsvs.evaluate.answered import Answered
from fastsvs.rollout.engine import Engine, SamplingParams
from fastsvs.selfplay import Experience, Group, Task, collect, original_tasks
from fastsvs.verify import Verifier


class _KeepAll:
    """An experience stage that derives nothing and filters nothing."""

    def expand(self, group: Group) -> list[Task]:
        return []

    def finish(self, groups: Sequence[Group]) -> Experience:
        return Experience(list(groups), counters={})


def evaluate(
    problems: Sequence[tuple[Problem, tuple[int, ...]]],
    engine: Engine,
    verifier: Verifier,
    decode: Callable[[Sequence[int]], str],
    plan: SamplingPlan,
    rollout: RolloutConfig,
    seed: int,
    cancelled: Callable[[], bool] = lambda: False,
    done: Sequence[Answered] = (),
    progress: Callable[[Answered], None] = lambda answered: None,
) -> list[Answered]:
    """The engine's weights on encoded problems, in their order. `progress` sees each problem once it is verified; those
    that are `done` are not asked again: a problem's samples depend on its place and `seed`, not on its company.

    Driven by all ranks or by the main rank alone, and cancelled, as `selfplay.collect`.
    """
    max_tokens = plan.max_response_tokens or rollout.max_response_tokens
    sampling = SamplingParams(temperature=plan.temperature, top_p=plan.top_p, max_tokens=max_tokens)
    keys = {problem.key for problem in done}
    tasks = [task for task in original_tasks(problems, plan.samples) if task.key not in keys]
    answered = list(done)

    def take(group: Group) -> None:
        answered.append(Answered.of(group))
        progress(answered[-1])

    collect(_KeepAll(), tasks, engine, verifier, decode, sampling, seed, progress=take, cancelled=cancelled)
    return sorted(answered, key=lambda problem: problem.key)
