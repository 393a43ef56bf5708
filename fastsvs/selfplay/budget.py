"""Budgeted self-play: variants are solved only as far as they promise to teach, and what that saves writes others.

A variant is asked a few times first. Where these answers come out alike, the posterior of its solve rate says whether
the others would differ from them; where that is unlikely they are not asked. What was saved pays for contexts in later
steps: correct responses to problems that lie outside the range of contexts, but whose variants will probably earn the
reward of writing. Every decision is made within a family, by what was known when the step began: no family waits for
another, and nothing depends on what is complete first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from fastsvs.config import BudgetConfig, SelfPlayConfig
from fastsvs.seeding import derive_seed
from fastsvs.selfplay.posterior import SolveRate
from fastsvs.selfplay.stages import informative
from fastsvs.selfplay.svs import SvsStage
from fastsvs.selfplay.svs.shaping import (
    chance_of_reward,
    context_samples,
    contexts_in_range,
    correct_samples,
    lies_in,
    rate_of_variants,
)
from fastsvs.selfplay.types import SYNTHESIS, VARIANT, Experience, Group, Task


class Portions:
    """Portions in which the samples of a step's tasks are asked: all at once, or some first and the others where these
    leave hope that answers differ."""

    def __init__(self, config: BudgetConfig) -> None:
        self._config = config
        self._begun: dict[str, Group] = {}
        """Groups of first samples, by key, whose other samples are asked."""

    def first(self, task: Task) -> range:
        """Return the numbers of the samples that are asked first."""
        first = self._config.first_samples
        return range(first if task.kind == VARIANT and 0 < first < task.samples else task.samples)

    def rest(self, task: Task) -> range:
        """Return the numbers of the samples that are asked after the first."""
        return range(self._config.first_samples, task.samples)

    def sort(self, groups: Sequence[Group]) -> tuple[list[Group], list[Task]]:
        """Return the whole groups, of what was asked first or after it, and the tasks whose rest is to be asked. A
        group that is not worth more samples is whole as it is."""
        whole: list[Group] = []
        unfinished: list[Task] = []
        for group in groups:
            if first := self._begun.pop(group.task.key, None):
                whole.append(joined(first, group))
            elif len(group.rollouts) == group.task.samples or chance_to_inform(group) < self._config.chance:
                whole.append(group)
            else:
                self._begun[group.task.key] = group
                unfinished.append(group.task)
        return whole, unfinished


def chance_to_inform(group: Group) -> float:
    """Return the probability that the group will be informative with all its samples, given those that it has. Where
    all were found to be worth the same part of the reward, nothing is known of the others, and it is 1."""
    scores = group.verified_scores()
    if informative(group) or not {0, 1}.issuperset(scores):
        return 1.0
    right, rate = int(sum(scores)), group.task.solve_rate or SolveRate()
    return rate.chance_to_differ(right, len(scores) - right, group.task.samples - len(group.rollouts))


def least_chance_to_inform(config: SelfPlayConfig, samples_per_prompt: int) -> float:
    """Return the smallest probability that a variant's group can be left with by its first samples; 1 where no problem
    can have variants."""
    first, more = config.budget.first_samples, config.samples_per_variant - config.budget.first_samples
    accuracies = [Fraction(right, samples_per_prompt) for right in range(1, samples_per_prompt + 1)]
    rates = [(accuracy, rate_of_variants(accuracy, samples_per_prompt)) for accuracy in accuracies]
    possible = [rate for at, rate in rates if lies_in(at, config.context_range) or promises_reward(rate, config)]
    alike = ((first, 0), (0, first))
    return min((rate.chance_to_differ(*answers, more) for rate in possible for answers in alike), default=1.0)


def promises_reward(rate: SolveRate, config: SelfPlayConfig) -> bool:
    """Return whether variants of this solve rate are likely enough to earn the reward of writing for a further
    context."""
    return chance_of_reward(rate, config) >= config.budget.context_chance


def joined(first: Group, rest: Group) -> Group:
    """Return one group of the samples of two that share a task."""
    return replace(
        first,
        rollouts=first.rollouts + rest.rollouts,
        texts=first.texts + rest.texts,
        verdicts=first.verdicts + rest.verdicts,
        notes=_noted(first) + _noted(rest) if first.notes or rest.notes else (),
        scores=first.marks() + rest.marks() if first.scores or rest.scores else (),
    )


def _noted(group: Group) -> tuple[Any, ...]:
    return group.notes or (None,) * len(group.rollouts)


class Budgeted:
    """A stage of SvS that writes from further contexts, and otherwise as the stage that it wraps."""

    def __init__(self, stage: SvsStage, further: Mapping[str, int]) -> None:
        """Wrap `stage`. `further` is the largest number of further contexts, by the key of the original."""
        self._stage = stage
        self._further = further

    def expand(self, group: Group) -> list[Task]:
        most, config = self._further.get(group.task.key, 0), self._stage.config
        if not most or context_samples(group, config):
            return self._stage.expand(group)
        if not promises_reward(rate_of_variants(group.accuracy, group.verified), config):
            return []
        return self._stage.synthesis_tasks(group, correct_samples(group))[:most]

    def finish(self, groups: Sequence[Group]) -> Experience:
        experience = self._stage.finish(groups)
        return replace(experience, counters=experience.counters | budget_counters(groups, self._stage.config))


def further_contexts(contexts: int, roots: Sequence[Task], seed: int) -> dict[str, int]:
    """Deal so many contexts to the `roots`, evenly and at random, and return the number for each key."""
    dealt = sorted((root.key for root in roots), key=lambda key: (derive_seed(seed, "contexts", key), key))
    each, over = divmod(contexts, max(1, len(dealt)))
    return {key: each + (place < over) for place, key in enumerate(dealt)}


def budget_counters(groups: Sequence[Group], config: SelfPlayConfig) -> dict[str, float]:
    """Return the number of variants that were not solved to the end, that of samples saved by it, that of contexts from
    outside the range, and that of samples spent on them. What is saved under such contexts lessens their cost."""
    usual = contexts_in_range(groups, config)
    further = [group for group in groups if group.task.kind == SYNTHESIS and group.task.parent not in usual]
    keys = {group.task.key for group in further}
    variants = [group for group in groups if group.task.kind == VARIANT]
    missing = [group for group in variants if len(group.rollouts) < group.task.samples]
    solved = [group for group in variants if group.task.parent in keys]
    return {
        "budget/stopped": len(missing),
        "budget/saved": sum(g.task.samples - len(g.rollouts) for g in missing if g.task.parent not in keys),
        "budget/contexts": len(further),
        "budget/spent": sum(len(group.rollouts) for group in [*further, *solved]),
    }


class Savings:
    """Account of the samples that were saved and not spent. A step may spend a part of them, which is held back from
    other steps until it is over.

    Few of the contexts that a step may take are taken, as few problems are such that their variants would be rewarded.
    What one that may be taken costs on average is learned from the steps so far. A step that costs more than there was
    leaves a debt, and nothing more is spent until it is saved again.
    """

    def __init__(self, config: SelfPlayConfig) -> None:
        self._budgeted = config.budget.first_samples > 0
        self._price = config.variants_per_context * (1 + config.samples_per_variant)
        """Largest cost of a context in samples."""
        self.samples = 0
        """Number of samples that were saved and not spent in the steps that are over; less than 0 for a debt."""
        self._spent = 0
        self._allowed = 0
        """Number of contexts that steps could have taken."""
        self._held: dict[int, tuple[int, float]] = {}
        """Contexts that a step under way may take, and the samples that are held for them, by step."""

    def hold(self, step: int, most: int) -> int:
        """Return the number of further contexts, `most` at most, that a step may take, and hold what they cost."""
        if not self._budgeted:
            return 0
        free = self.samples - sum(samples for _, samples in self._held.values())
        cost = (self._price + self._spent) / (1 + self._allowed)
        contexts = min(most, int(free / cost)) if free > 0 else 0
        self._held[step] = contexts, contexts * cost
        return contexts

    def settle(self, step: int, counters: Mapping[str, float]) -> None:
        """Note what a step has saved and spent."""
        allowed, _ = self._held.pop(step)
        saved, spent = int(counters["budget/saved"]), int(counters["budget/spent"])
        self.samples += saved - spent
        self._spent += spent
        self._allowed += allowed

    def state_dict(self) -> dict[str, int]:
        return {"samples": self.samples, "spent": self._spent, "allowed": self._allowed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore what `state_dict` gave. Raises ValueError for what is no number of it."""
        numbers = [state[name] for name in ("samples", "spent", "allowed")]
        if any(type(number) is not int for number in numbers) or min(numbers[1:]) < 0:
            raise ValueError(f"{numbers} are no numbers of samples and contexts")
        self.samples, self._spent, self._allowed = numbers
