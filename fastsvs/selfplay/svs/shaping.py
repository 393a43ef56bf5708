"""Rules for which groups carry a learning signal and what a synthetic problem is worth (SvS).

The rules are those of sections 1.2 and 1.4 of its code. All comparisons use exact fractions of counts: the ends of the
ranges are inclusive, and 3 of 10 is 0.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from fastsvs.config import SelfPlayConfig
from fastsvs.selfplay.posterior import SolveRate
from fastsvs.selfplay.types import ORIGINAL, Group
from fastsvs.verify import Verdict

ANSWER_TO_THE_ORIGINAL = 0.5
"""Answers to a variant that one answer to its original is worth. How well that foresees which groups are informative in
the demo: docs/svs.md#budgeted-self-play."""


def within(group: Group, limits: tuple[float, float]) -> bool:
    """Return whether the group's accuracy lies in the range. A group without a verified answer is in no range."""
    return group.accuracy is not None and lies_in(group.accuracy, limits)


def lies_in(accuracy: Fraction, limits: tuple[float, float]) -> bool:
    """Return whether the accuracy lies in the range, both ends included."""
    low, high = (Fraction(repr(limit)) for limit in limits)
    return low <= accuracy <= high


def context_samples(group: Group, config: SelfPlayConfig) -> list[int]:
    """Return the correct responses of an under-performing problem. Each becomes a synthesis context."""
    if not group.correct or not within(group, config.context_range):
        return []
    return correct_samples(group)


def contexts_in_range(groups: Sequence[Group], config: SelfPlayConfig) -> dict[str, list[int]]:
    """Return the contexts of the under-performing problems among `groups`, by the problem's key."""
    originals = [group for group in groups if group.task.kind == ORIGINAL]
    return {group.task.key: samples for group in originals if (samples := context_samples(group, config))}


def correct_samples(group: Group) -> list[int]:
    return [sample for sample, verdict in enumerate(group.verdicts) if verdict is Verdict.CORRECT]


def deserves_reward(variant: Group, config: SelfPlayConfig) -> bool:
    """Return whether a synthetic problem has the wanted difficulty under the inherited answer."""
    if config.shaping.rule == "solvable":
        return variant.correct > 0
    return within(variant, config.positive_range)


def rate_of_variants(accuracy: Fraction | None, answers: int) -> SolveRate:
    """Return what so many answers to a problem, of this accuracy, say of the solve rate of its variants, which are
    about as hard."""
    worth = ANSWER_TO_THE_ORIGINAL * answers
    share = float(accuracy or 0)
    return SolveRate().after(worth * share, worth * (1 - share))


def chance_of_reward(rate: SolveRate, config: SelfPlayConfig) -> float:
    """Return the probability that a synthetic problem of this solve rate has the wanted difficulty."""
    size, solvable = config.samples_per_variant, config.shaping.rule == "solvable"

    def rewarded(right: int) -> bool:
        return right > 0 if solvable else lies_in(Fraction(right, size), config.positive_range)

    return sum(chance for right, chance in enumerate(rate.chances(size)) if rewarded(right))
