"""FastSvS kernels: fused operators of the policy loss, usable without the trainer."""

from .head import Head
from .invariant import batch_invariant
from .linear_logprob import linear_logprob_entropy
from .linear_policy_loss import PolicyLossResult, linear_policy_loss
from .logprob import logprob_entropy
from .mean_logprob import linear_mean_logprob
from .rows_torch import IGNORE_INDEX
from .settings import PolicyLossSettings
from .token_loss import TokenInputs, TokenLossFunction
from .top_logprobs import linear_top_logprobs
from .truncation import Truncation

__all__ = [
    "IGNORE_INDEX",
    "Head",
    "PolicyLossResult",
    "PolicyLossSettings",
    "TokenInputs",
    "TokenLossFunction",
    "Truncation",
    "batch_invariant",
    "linear_logprob_entropy",
    "linear_mean_logprob",
    "linear_policy_loss",
    "linear_top_logprobs",
    "logprob_entropy",
]
