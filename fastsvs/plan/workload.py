"""One self-play step of given size and lengths: which tasks follow from which, and how long each response is.

Everything is a function of the seed and of the task's key, so both schedules do the same work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log
from typing import Any, Protocol, get_args

import numpy as np

from fastsvs.data import Problem
from fastsvs.rollout import Engine, Request, SamplingParams
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import (
    ANSWER,
    KINDS,
    ORIGINAL,
    SYNTHESIS,
    VARIANT,
    Experience,
    ExperienceStage,
    Group,
    Schedule,
    Task,
    collect,
    original_tasks,
)
from fastsvs.verify import Verdict

SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
P99 = 2.326
"""Number of standard deviations from the median of a normal distribution to its 99th percentile."""


class Work(Protocol):
    """A step that a simulated engine can be given."""

    def collect(self, engine: Engine, schedule: Schedule) -> Experience:
        """Run the whole step on `engine`."""

    def length(self, request: Request, sample: int) -> int:
        """Return the tokens of a response to a request."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal response lengths, cut at `limit`."""

    median: float
    p99_over_median: float
    limit: int
    within_group: float
    """Share of the variance of the logarithm that lies between the responses to one prompt.

    The rest lies between prompts. With 0, the responses to a prompt are equally long.
    """
    synthesis: float = 0.5
    """Length of a written problem relative to a solution."""

    def of(self, task: Task, sample: int, seed: int) -> int:
        """Return the tokens of response number `sample`."""
        spread = log(self.p99_over_median) / P99
        prompt = _normal(seed, task.key) * (1 - self.within_group) ** 0.5
        own = _normal(seed, task.key, sample) * self.within_group**0.5
        median = self.median * (self.synthesis if task.kind == SYNTHESIS else 1.0)
        return max(1, min(self.limit, round(median * exp(spread * (prompt + own)))))


@dataclass(frozen=True, slots=True)
class Workload:
    """A step of self-play as random numbers make it: a stage without a model."""

    prompts: int
    samples: int
    lengths: Lengths
    prompt_tokens: int = 8
    underperforming: float = 0.3
    """Share of the prompts with contexts."""
    contexts: int = 4
    """Most contexts of such a prompt; each number from 1 is equally likely."""
    variants: int = 8
    """Number of variants written from each context."""
    valid: float = 0.8
    """Share of the variants that are solved."""
    variant_samples: int | None = None
    """Number of solutions of a variant; None for as many as a problem of the data set has."""
    seed: int = 0

    def steps(self, count: int) -> list[Workload]:
        """Return `count` workloads of the same kind, each with its own seed."""
        return [replace(self, seed=seed) for seed in range(count)]

    def tasks(self) -> list[Task]:
        """Return the tasks that the step begins with."""
        problems = [Problem(str(i), f"problem {i}", "1") for i in range(self.prompts)]
        tasks = original_tasks([(problem, self._prompt(problem.id)) for problem in problems], self.samples)
        return [self._limited(task) for task in tasks]

    def expand(self, group: Group) -> list[Task]:
        """Return the tasks that follow, as an `ExperienceStage` does: contexts of an original problem, variants of a
        context."""
        return self.follow(group.task)

    def follow(self, parent: Task) -> list[Task]:
        """Return the tasks that follow from one of which all responses are there."""
        if parent.kind == VARIANT:
            return []
        draw = np.random.default_rng(derive_seed(self.seed, "expand", parent.key))
        if parent.kind == ORIGINAL:
            children = int(draw.integers(1, self.contexts + 1)) if draw.random() < self.underperforming else 0
            kind, samples = SYNTHESIS, self.variants
        else:
            children, kind = int(draw.binomial(self.variants, self.valid)), VARIANT
            samples = self.variant_samples or self.samples
        keys = [f"{parent.key}/{child:03d}" for child in range(children)]
        judge = None if kind == SYNTHESIS else ANSWER
        tasks = [Task(key, kind, parent.problem, self._prompt(key), samples, judge=judge) for key in keys]
        return [self._limited(task) for task in tasks]

    def finish(self, groups: Sequence[Group]) -> Experience:
        return Experience(list(groups), {})

    def collect(self, engine: Engine, schedule: Schedule) -> Experience:
        """Run the whole step on `engine`. Answers are checked in no time."""
        return run_step(self, self.tasks(), engine, SamplingParams(max_tokens=self.lengths.limit), self.seed, schedule)

    def length(self, request: Request, sample: int) -> int:
        """Return the tokens of a response to a request."""
        if not self.lengths.within_group:
            return request.sampling.max_tokens
        kind = KINDS[request.key.count("/")]
        task = Task(request.key, kind, None, (), request.samples)  # type: ignore[arg-type]
        return self.lengths.of(task, sample, self.seed)

    def _limited(self, task: Task) -> Task:
        """Limit the task to its length, where all responses of a group are equally long, so that a real engine makes
        them so too."""
        if self.lengths.within_group:
            return task
        limit = self.lengths.of(task, 0, self.seed)
        return replace(task, max_tokens=limit)

    def _prompt(self, key: str) -> tuple[int, ...]:
        draw = np.random.default_rng(derive_seed(self.seed, "prompt", key))
        return tuple(draw.integers(0, 64, self.prompt_tokens).tolist())


def run_step(
    stage: ExperienceStage,
    tasks: Sequence[Task],
    engine: Engine,
    sampling: SamplingParams,
    seed: int,
    schedule: Schedule,
) -> Experience:
    """Run a step on `engine`. Answers are checked in no time."""
    return collect(stage, tasks, engine, Instantly(), lambda ids: "", sampling, seed, schedule=schedule)


class Instantly:
    """A verifier to which everything is correct at once."""

    facts = ()

    def submit(self, pairs: Sequence[Any]) -> list[Verdict]:
        return [Verdict.CORRECT] * len(pairs)


def _normal(*parts: int | str) -> float:
    return float(np.random.default_rng(derive_seed("length", *parts)).standard_normal())
