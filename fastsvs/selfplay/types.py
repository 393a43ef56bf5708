"""What self-play passes around: tasks go to the engine, groups come back, an experience goes to the algorithm.

Kinds of experience (paper's terms): `original` is original problem solving (OQA), `synthesis` is variational problem
synthesis (VPS), `variant` is synthetic problem solving (SPA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

from fastsvs.data.records import Problem
from fastsvs.rollout.engine import Rollout
from fastsvs.verify.verdict import Verdict

ORIGINAL = "original"
SYNTHESIS = "synthesis"
VARIANT = "variant"
KINDS = (ORIGINAL, SYNTHESIS, VARIANT)
ANSWER = "answer"
"""The judge that compares a response's final answer with the problem's."""


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to be answered `samples` times."""

    key: str
    """Unique within a step. A child's key starts with its parent's, so that sorted groups stand in family order."""
    kind: str
    problem: Problem
    """What is to be solved; for a synthesis task the problem whose correct response is rewritten."""
    prompt_ids: tuple[int, ...]
    samples: int
    parent: str | None = None
    """Key of the group that this task was made from."""
    parent_sample: int | None = None
    """Which of the parent's responses it was made from."""
    judge: str | None = ANSWER
    """Who says which responses are correct; None where there is nothing to say, as for a problem that is written."""
    max_tokens: int | None = None
    """Response limit; the sampling parameters' when not set."""
    prefix: str = ""
    """What every response begins with. It ends the prompt, and is no part of the rollouts."""


@dataclass(frozen=True, slots=True)
class Group:
    """The `samples` responses to one task, in sample order.

    A response that could not be verified is neither correct nor wrong: it is left out of `verified`, hence of
    `accuracy`, of the selection and of the filters. If its group is trained on, it earns the reward of a wrong
    answer: otherwise answers that hang the verifier would go unpunished. It is counted (`unverified/<kind>`).
    """

    task: Task
    rollouts: tuple[Rollout, ...]
    texts: tuple[str, ...]
    """[samples] decoded responses, special tokens left out, after the task's prefix."""
    verdicts: tuple[Verdict, ...] = ()
    """[samples]; empty for tasks without a judge."""
    notes: tuple[Any, ...] = ()
    """[samples] what the judge found out beside the verdicts, JSON; empty where it says nothing more."""
    rewards: tuple[float, ...] = ()
    """[samples]; empty until the stage's `finish` has set them."""

    @property
    def correct(self) -> int:
        return self.verdicts.count(Verdict.CORRECT)

    @property
    def unverified(self) -> int:
        return self.verdicts.count(Verdict.UNVERIFIED)

    @property
    def verified(self) -> int:
        return len(self.verdicts) - self.unverified

    @property
    def accuracy(self) -> Fraction | None:
        """Exact share of correct responses among the verified ones; None when there are none."""
        return Fraction(self.correct, self.verified) if self.verified else None

    @property
    def mean_accuracy(self) -> float | None:
        """`accuracy` as a float, for reports."""
        return None if self.accuracy is None else float(self.accuracy)

    @property
    def truncated(self) -> int:
        return sum(rollout.finish_reason == "length" for rollout in self.rollouts)


@dataclass(frozen=True, slots=True)
class Experience:
    """The groups to train on, rewards set, sorted by key; and what happened on the way to them."""

    groups: list[Group]
    counters: dict[str, float]
    discarded: list[Group] = field(default_factory=list)
    """Groups that the filters left out, rewards set: for sample logs and reports."""
    idle_seconds: float = field(default=0.0, compare=False, repr=False)
    """How long the engine had nothing to do while they were made."""


class ExperienceStage(Protocol):
    """Derives new prompts from finished groups and says what everything was worth. `expand` is pure."""

    def expand(self, group: Group) -> list[Task]:
        """The tasks that follow from one finished group: called once for every group, its own children's too."""

    def finish(self, groups: Sequence[Group]) -> Experience:
        """Rewards and filters, given every group of the step (all tasks that `expand` gave), sorted by key."""


def original_tasks(problems: Sequence[tuple[Problem, tuple[int, ...]]], samples: int) -> list[Task]:
    """A step's first tasks from its (problem, prompt ids), keyed by position: a problem may come twice in a step."""
    return [
        Task(f"{position:06d}", ORIGINAL, problem, prompt_ids, samples)
        for position, (problem, prompt_ids) in enumerate(problems)
    ]
