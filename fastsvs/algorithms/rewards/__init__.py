"""Rewards: one file each, registered by name in `REWARDS`."""

from fastsvs.algorithms.rewards.covo import covo
from fastsvs.algorithms.rewards.intrinsic import log_prob, negative_entropy, self_certainty
from fastsvs.algorithms.rewards.majority import majority, vote_rewards
from fastsvs.algorithms.rewards.registry import REWARDS, RewardFn, needs_labels, sample_rewards

__all__ = [
    "REWARDS",
    "RewardFn",
    "covo",
    "log_prob",
    "majority",
    "needs_labels",
    "negative_entropy",
    "sample_rewards",
    "self_certainty",
    "vote_rewards",
]
