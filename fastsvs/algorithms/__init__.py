"""Algorithms: advantages, policy losses, aggregation and updates as pure functions over a ragged batch."""

from fastsvs.algorithms.advantages import ADVANTAGES, AdvantageFn, token_advantages
from fastsvs.algorithms.aggregation import aggregation_weights
from fastsvs.algorithms.assemble import make_batch
from fastsvs.algorithms.batch import Batch, LeftOut
from fastsvs.algorithms.context import Context, Probe, TokenStatistics
from fastsvs.algorithms.losses import LOSSES
from fastsvs.algorithms.objective import CompleteLoss, policy_loss
from fastsvs.algorithms.rewards import REWARDS, RewardFn, needs_labels, sample_rewards
from fastsvs.algorithms.terms import PolicyLoss, TokenLoss, TokenTerms, is_token_level, loss_settings, token_level
from fastsvs.algorithms.updates import Update, split_updates, updates_of

__all__ = [
    "ADVANTAGES",
    "LOSSES",
    "REWARDS",
    "AdvantageFn",
    "Batch",
    "CompleteLoss",
    "Context",
    "LeftOut",
    "PolicyLoss",
    "Probe",
    "RewardFn",
    "TokenLoss",
    "TokenStatistics",
    "TokenTerms",
    "Update",
    "aggregation_weights",
    "is_token_level",
    "loss_settings",
    "make_batch",
    "needs_labels",
    "policy_loss",
    "sample_rewards",
    "split_updates",
    "token_advantages",
    "token_level",
    "updates_of",
]
