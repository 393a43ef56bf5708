"""The data that self-play passes around: tasks go to the engine, groups come back, an experience goes to the algorithm.

Kinds of experience (in the paper's terms): `original` is original problem solving (OQA), `synthesis` is variational
problem synthesis (VPS), `variant` is synthetic problem solving (SPA).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Protocol

from fastsvs.data import Problem
from fastsvs.rollout import Rollout
from fastsvs.selfplay.posterior import SolveRate
from fastsvs.verify import Verdict

ORIGINAL = "original"
SYNTHESIS = "synthesis"
VARIANT = "variant"
KINDS = (ORIGINAL, SYNTHESIS, VARIANT)
ANSWER = "answer"
"""Name of the judge that compares a response's final answer with the problem's."""


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to be answered `samples` times."""

    key: str
    """Key that is unique within a step. It starts with the parent's key, so that sorted groups stand in family
    order."""
    kind: str
    problem: Problem
    """Problem to be solved; for a synthesis task, the problem whose correct response is rewritten."""
    prompt_ids: tuple[int, ...]
    samples: int
    parent: str | None = None
    """Key of the group that this task was made from."""
    parent_sample: int | None = None
    """Index of the parent's response that this task was made from."""
    judge: str | None = ANSWER
    """Name of the judge of the responses; None where there is nothing to judge, as for a problem that is being
    written."""
    max_tokens: int | None = None
    """Longest response in tokens; the sampling parameters' limit when None."""
    prefix: str = ""
    """Text that every response begins with. It ends the prompt, and is no part of the rollouts."""
    solve_rate: SolveRate | None = None
    """Solve rate of what is written from an original, as far as the answers to the original tell, for tasks that write
    or solve it; None for all others."""

    @property
    def family(self) -> str:
        """Return the key of the step's first task that this one descends from, which its key begins with."""
        return self.key.partition("/")[0]

    def child_key(self, sample: int) -> str:
        """Return the key of the task that is made from one of this task's responses."""
        return f"{self.key}/{sample:03d}"


@dataclass(frozen=True, slots=True)
class Group:
    """The responses to one task, in sample order: `samples` of them, or fewer where the others were not worth asking.

    A response that could not be verified is neither correct nor wrong: it is left out of `verified`, and so of
    `accuracy`, the selection and the filters. If its group is trained on, it earns the reward of a wrong answer:
    otherwise answers that hang the verifier would go unpunished. It is counted (`unverified/<kind>`).
    """

    task: Task
    rollouts: tuple[Rollout, ...]
    texts: tuple[str, ...]
    """Decoded responses, [samples], without special tokens, after the task's prefix."""
    verdicts: tuple[Verdict, ...] = ()
    """Verdicts, [samples]; empty for tasks without a judge."""
    notes: tuple[Any, ...] = ()
    """JSON that the judge found besides the verdicts, [samples]; empty where it found nothing more."""
    scores: tuple[float, ...] = ()
    """Partial scores in [0, 1], [samples], where the verifier gives such; 0 for a response that could not be verified.
    Empty where verdicts are all."""
    rewards: tuple[float, ...] = ()
    """Rewards, [samples]; empty until the stage's `finish` has set them."""
    penalties: tuple[float, ...] = ()
    """Numbers to add to the rewards before advantages are taken, [samples]: 0 or less, for their lengths; empty where
    lengths cost nothing."""
    rejections: tuple[str | None, ...] = ()
    """Reasons, [samples], for which a written problem was not solved, None where it was; empty where none was to be
    written, and until the stage's `finish` has set them."""

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
        """Return the exact share of correct responses among the verified ones, or their exact mean score, or None when
        there are none."""
        if not self.verified:
            return None
        if not self.scores:
            return Fraction(self.correct, self.verified)
        return sum(self.verified_scores(), start=Fraction(0)) / self.verified

    def marks(self) -> tuple[float, ...]:
        """Return the worth of each response, [samples]: its score or, without scores, 1 if it is correct and else 0."""
        return self.scores or tuple(float(verdict is Verdict.CORRECT) for verdict in self.verdicts)

    def verified_scores(self) -> list[Fraction]:
        """Return the scores of the verified responses, a decimal as what it says: 0.1 is 1/10."""
        pairs = zip(self.marks(), self.verdicts, strict=True)
        return [Fraction(repr(score)) for score, verdict in pairs if verdict is not Verdict.UNVERIFIED]

    @property
    def truncated(self) -> int:
        return sum(rollout.finish_reason == "length" for rollout in self.rollouts)


@dataclass(frozen=True, slots=True)
class Experience:
    """The groups to train on, with rewards and sorted by key, and counters of what happened on the way to them."""

    groups: list[Group]
    counters: dict[str, float]
    discarded: list[Group] = field(default_factory=list)
    """Groups that the filters left out, with rewards, for sample logs and reports."""
    idle_seconds: float = field(default=0.0, compare=False, repr=False)
    """Time for which the engine had nothing to do while the groups were made, in seconds."""

    def unfiltered(self) -> Experience:
        """Return the experience with every group among those to train on, for rewards that are not the stage's own."""
        groups = sorted([*self.groups, *self.discarded], key=lambda group: group.task.key)
        return replace(self, groups=groups, discarded=[])


class ExperienceStage(Protocol):
    """A stage that derives new prompts from finished groups and sets the rewards. `expand` is pure."""

    def expand(self, group: Group) -> list[Task]:
        """Return the tasks that follow from one finished group. It is called once for every group, those of its own
        tasks too."""

    def finish(self, groups: Sequence[Group]) -> Experience:
        """Set rewards and filter, given every group of the step (all tasks that `expand` gave), sorted by key."""


def original_tasks(problems: Sequence[tuple[Problem, tuple[int, ...]]], samples: int) -> list[Task]:
    """Return a step's first tasks from its (problem, prompt ids), keyed by position: a problem may come twice in a
    step."""
    return [
        Task(f"{position:06d}", ORIGINAL, problem, prompt_ids, samples)
        for position, (problem, prompt_ids) in enumerate(problems)
    ]
