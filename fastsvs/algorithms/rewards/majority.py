"""Majority vote: the answer that most of a group give is taken as right (SRT, arXiv 2505.21444; TTRL, 2504.16084)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context
from fastsvs.algorithms.rewards.registry import REWARDS
from fastsvs.config import MajorityConfig
from fastsvs.verify import canonical_answer, majority_share


@REWARDS.register("majority")
def majority(batch: Batch, context: Context) -> Tensor:
    """Return the rewards of `vote_rewards`, `[samples]`. Reports the mean share of the majority, and the number of
    groups above the threshold."""
    rewards = torch.zeros(len(batch))
    shares = []
    for group in batch.groups.unique():
        samples = (batch.groups == group).nonzero().flatten()
        answers = [canonical_answer(context.decode(batch.response_ids[sample].tolist())) for sample in samples]
        shares.append(majority_share(answers))
        rewards[samples] = torch.tensor(vote_rewards(answers, context.config.majority))
    if shares:
        threshold = context.config.majority.threshold
        context.metrics["majority_share"] = sum(shares) / len(shares)
        context.metrics["majority_groups"] = sum(share > threshold for share in shares)
    return rewards


def vote_rewards(answers: Sequence[str | None], config: MajorityConfig) -> list[float]:
    """Return 1 for the most frequent answer of a group (the first one given, if there are several), else 0. Under
    `soft`, return the share of the group with the same answer.

    A response without an answer has no vote and earns 0. When the majority is not above the threshold, all rewards are
    0 and there is nothing to learn.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes or majority_share(answers) <= config.threshold:
        return [0.0] * len(answers)
    if config.soft:
        return [votes[answer] / len(answers) if answer is not None else 0.0 for answer in answers]
    winner = votes.most_common(1)[0][0]
    return [float(answer == winner) for answer in answers]
