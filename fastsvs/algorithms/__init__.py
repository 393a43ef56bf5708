"""Algorithms: advantages, policy losses, aggregation and updates as pure functions over a ragged batch."""

from fastsvs.algorithms.advantages import ADVANTAGES, AdvantageFn, token_advantages
from fastsvs.algorithms.aggregation import aggregation_weights
from fastsvs.algorithms.assemble import make_batch
from fastsvs.algorithms.batch import Batch, LeftOut, SampleName
from fastsvs.algorithms.context import Context, Probe, TokenStatistics
from fastsvs.algorithms.losses import LOSSES
from fastsvs.algorithms.metrics import (
    Metric,
    PartialMetric,
    Reduction,
    TokenMetric,
    combine,
    joined,
    over_step,
    token_metrics,
)
from fastsvs.algorithms.objective import CompleteLoss, policy_loss
from fastsvs.algorithms.overlong import penalized
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
    "Metric",
    "PartialMetric",
    "PolicyLoss",
    "Probe",
    "Reduction",
    "RewardFn",
    "SampleName",
    "TokenLoss",
    "TokenMetric",
    "TokenStatistics",
    "TokenTerms",
    "Update",
    "aggregation_weights",
    "combine",
    "is_token_level",
    "joined",
    "loss_settings",
    "make_batch",
    "needs_labels",
    "over_step",
    "penalized",
    "policy_loss",
    "sample_rewards",
    "split_updates",
    "token_advantages",
    "token_level",
    "token_metrics",
    "updates_of",
]
