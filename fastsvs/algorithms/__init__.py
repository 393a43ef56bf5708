"""Algorithms: advantages, policy losses, aggregation and updates as pure functions over a ragged batch."""

from fastsvs.algorithms.advantages import ADVANTAGES, AdvantageFn, token_advantages
from fastsvs.algorithms.aggregation import aggregation_weights
from fastsvs.algorithms.assemble import make_batch
from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.losses import LOSSES
from fastsvs.algorithms.objective import policy_loss
from fastsvs.algorithms.terms import PolicyLoss, TokenLoss, TokenTerms
from fastsvs.algorithms.updates import split_updates

__all__ = [
    "ADVANTAGES",
    "LOSSES",
    "AdvantageFn",
    "Batch",
    "PolicyLoss",
    "TokenLoss",
    "TokenTerms",
    "aggregation_weights",
    "make_batch",
    "policy_loss",
    "split_updates",
    "token_advantages",
]
