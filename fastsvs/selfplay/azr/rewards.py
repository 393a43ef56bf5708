"""Rewards of proposals and answers (arXiv 2505.03335, equations 4 to 6, with the constants of its code)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

from fastsvs.config import AzrConfig
from fastsvs.selfplay.azr.judge import NO_ANSWER
from fastsvs.selfplay.types import Group
from fastsvs.verify import Verdict

INVALID = -1.0
USELESS = -0.5
"""Reward of a valid proposal that is always or never solved, and of an answer in the right form that is not right."""

Learnability = Callable[[Fraction, AzrConfig], float]

LEARNABILITY: Mapping[str, Learnability] = {
    "one_minus": lambda p, config: float(1 - p) if 0 < p < 1 else USELESS,
    "symmetric": lambda p, config: float(1 - 2 * abs(p - Fraction(1, 2))),
    "lilo": lambda p, config: float(p * (1 - p)),
    "band": lambda p, config: float(config.band[0] <= p <= config.band[1]),
    "solvable": lambda p, config: float(p > 0),
}


def proposal_reward(solves: Group | None, intrinsic: Callable[[], float], config: AzrConfig) -> float:
    """Return the reward of one proposal; `solves` is None for an invalid one, else the group that gives its solve rate.

    `intrinsic` is added only where the solve rate alone earns something: complexity that nobody learns from is worth
    nothing. (The AZR code adds it first, so that an insoluble program may still earn it.)
    """
    if solves is None:
        return INVALID
    reward = LEARNABILITY[config.proposer_reward](solves.accuracy or Fraction(0), config)
    return reward + intrinsic() if reward > 0 else reward


def solving_rewards(group: Group) -> tuple[float, ...]:
    """Return the rewards of answers, [samples]: 1 for right, -0.5 for wrong or not checked, -1 for one without an
    answer in the form that was asked for."""
    notes = group.notes or (None,) * len(group.verdicts)
    return tuple(
        1.0 if verdict is Verdict.CORRECT else INVALID if note == NO_ANSWER else USELESS
        for verdict, note in zip(group.verdicts, notes, strict=True)
    )
