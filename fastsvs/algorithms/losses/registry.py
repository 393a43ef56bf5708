"""Policy losses by name, and the log-ratio that they share."""

from __future__ import annotations

from torch import Tensor

from fastsvs.algorithms.terms import PolicyLoss
from fastsvs.registry import Registry

LOSSES = Registry[PolicyLoss]("policy loss")

LOG_RATIO_LIMIT = 20.0


def clamped_log_ratio(logprobs: Tensor, baseline: Tensor) -> Tensor:
    """`logprobs - baseline` within +-20, without gradient where it is cut (the SvS code's clamp, seen in verl too)."""
    return (logprobs - baseline).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
