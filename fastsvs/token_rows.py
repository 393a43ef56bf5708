"""Responses token by token, of a share of the problems: which problems, and the line that a group has in a file.

A problem that is asked again is chosen again, and runs and evaluations with one seed choose the same problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from torch import Tensor

from fastsvs.algorithms import SampleName
from fastsvs.data import Problem
from fastsvs.seeding import derive_seed
from fastsvs.selfplay import Group

DIGITS = 4
"""Number of digits after the point of a log-prob or entropy: a ratio of two log-probs is then right to 1 in 10,000."""
LONGEST_CHARACTER = 4
"""Largest number of tokens that one character can be spread over: that of its bytes in UTF-8."""
SPLIT = "\ufffd"
"""Character that a decoder gives for bytes that are none yet."""


def is_chosen(problem: Problem, share: float, seed: int) -> bool:
    """Return whether a problem is among the `share` of all problems that the seed chooses. A larger share has those of
    a smaller one."""
    return derive_seed(seed, "tokens", problem.id, problem.question) < share * 2**63


def token_row(
    group: Group, decode: Callable[[Sequence[int]], str], seen: Mapping[SampleName, Tensor] | None = None
) -> dict[str, Any]:
    """Return the line of a group: the prompt as it was rendered, and for each response the texts of its tokens, special
    ones included, the log-probs of the engine that sampled them, and log-probs and entropies of the policy.

    `seen` has the latter, [2, tokens], of the samples that an update learned from; both are None for all others.
    """
    names = [(group.task.key, number) for number in range(len(group.rollouts))]
    policy = [seen[name].tolist() if seen and name in seen else (None, None) for name in names]
    return {
        "key": group.task.key,
        "prompt": decode(group.task.prompt_ids),
        "texts": [token_texts(rollout.response_ids, decode) for rollout in group.rollouts],
        "engine_logprobs": [_rounded(rollout.logprobs) for rollout in group.rollouts],
        "policy_logprobs": [logprobs and _rounded(logprobs) for logprobs, _ in policy],
        "entropies": [entropies and _rounded(entropies) for _, entropies in policy],
    }


def token_texts(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Return the text that each token adds to the text of those before it. Of tokens that share a character the last
    one has it, and the others have none.

    As decoders treat the beginning of a text in ways of their own, each token is decoded behind those before it.
    """
    texts = []
    start = read = 0
    for end in range(1, len(ids) + 1):
        behind, text = decode(ids[start:read]), decode(ids[start:end])
        if text.endswith(SPLIT) and end - read < LONGEST_CHARACTER and end < len(ids):
            texts.append("")
            continue
        texts.append(text[len(behind) :])
        start, read = read, end
    return texts


def _rounded(figures: Sequence[float]) -> list[float | None]:
    """Return the figures as JSON has them, with None for those that are not finite, and 0 for what rounds to -0."""
    return [round(figure, DIGITS) + 0.0 if isfinite(figure) else None for figure in figures]
