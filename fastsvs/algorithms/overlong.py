"""Soft overlong punishment of DAPO (arXiv 2503.14476, equation 13): long answers lose reward before they are cut off.

An answer that hits the token limit is wrong, however sound it was so far. The penalty tells the policy so by degrees,
over the last tokens before the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from fastsvs.config import AlgorithmConfig

if TYPE_CHECKING:  # who only computes losses need not import engines and verifiers
    from fastsvs.selfplay import Experience, Group


def overlong_penalty(length: int, limit: int, buffer: int, factor: float) -> float:
    """Return 0 for a response of up to `limit` - `buffer` tokens; from there a straight line leads to -`factor` at
    `limit` tokens."""
    return factor * max(-1.0, min(0.0, (limit - buffer - length) / buffer))


def penalized(experience: Experience, config: AlgorithmConfig, max_response_tokens: int) -> Experience:
    """Return the experience with the penalties of all its answers, and with their counters.

    Answers are the responses that a judge looked at, whether they are learned from or not. A problem that the policy
    wrote is none: its worth is how hard it is, and one that was cut off earns nothing as it is. Rewards stay what they
    were, and with them all that goes by correctness: selection, shaping and filters.
    """
    if not config.overlong_buffer:
        return experience

    def of(groups: Sequence[Group]) -> list[Group]:
        return [_with_penalties(group, config, max_response_tokens) for group in groups]

    experience = replace(experience, groups=of(experience.groups), discarded=of(experience.discarded))
    answers: dict[str, list[float]] = {}
    for group in (*experience.groups, *experience.discarded):
        answers.setdefault(group.task.kind, []).extend(group.penalties)
    counters: dict[str, float] = {}
    for kind, penalties in answers.items():
        if penalties:
            counters[f"overlong/{kind}"] = sum(penalty < 0 for penalty in penalties)
            counters[f"overlong_penalty/{kind}"] = fmean(penalties)
    return replace(experience, counters=experience.counters | counters)


def _with_penalties(group: Group, config: AlgorithmConfig, max_response_tokens: int) -> Group:
    if group.task.judge is None:
        return group
    limit = group.task.max_tokens or max_response_tokens
    lengths = [len(rollout.response_ids) for rollout in group.rollouts]
    buffer, factor = config.overlong_buffer, config.overlong_factor
    return replace(group, penalties=tuple(overlong_penalty(length, limit, buffer, factor) for length in lengths))
