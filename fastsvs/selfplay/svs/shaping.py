"""Rules for which groups carry a learning signal and what a synthetic problem is worth (SvS).

The rules are those of sections 1.2 and 1.4 of its code. All comparisons use exact fractions of counts: the ends of the
ranges are inclusive, and 3 of 10 is 0.3.
"""

from __future__ import annotations

from fractions import Fraction

from fastsvs.config import SelfPlayConfig
from fastsvs.selfplay.types import Group
from fastsvs.verify import Verdict


def within(group: Group, limits: tuple[float, float]) -> bool:
    """Return whether the accuracy lies in the range, both ends included. A group without a verified answer is in no
    range."""
    low, high = (Fraction(repr(limit)) for limit in limits)
    return group.accuracy is not None and low <= group.accuracy <= high


def context_samples(group: Group, config: SelfPlayConfig) -> list[int]:
    """Return the correct responses of an under-performing problem. Each becomes a synthesis context."""
    if not group.correct or not within(group, config.context_range):
        return []
    return [sample for sample, verdict in enumerate(group.verdicts) if verdict is Verdict.CORRECT]


def deserves_reward(variant: Group, config: SelfPlayConfig) -> bool:
    """Return whether a synthetic problem has the wanted difficulty under the inherited answer."""
    if config.shaping.rule == "solvable":
        return variant.correct > 0
    return within(variant, config.positive_range)
