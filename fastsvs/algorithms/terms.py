"""Inputs and results of a policy loss, token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from torch import Tensor

from fastsvs.algorithms.metrics import TokenMetric
from fastsvs.config import AlgorithmConfig
from fastsvs.kernels import PolicyLossSettings

L = TypeVar("L", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """The response tokens that a policy loss gets, all tensors `[tokens]`. A sequence is never split, except for a loss
    that is `token_level`."""

    logprobs: Tensor
    """Log-probs of the current policy, with gradient, at the sampling temperature."""
    entropy: Tensor
    """Entropy of the current policy in nats; with gradient when the entropy coefficient is not 0."""
    old_logprobs: Tensor
    """Log-probs of the policy before the batch's first update (equal to `logprobs.detach()` on-policy)."""
    rollout_logprobs: Tensor
    """Log-probs of the engine that sampled the tokens."""
    reference_logprobs: Tensor | None
    """Log-probs of the reference model; None without a KL term."""
    advantages: Tensor
    sequence: Tensor
    """Number of the sequence that a token belongs to in this call: int64, 0..sequences-1, non-decreasing."""
    sequences: int
    """Number of sequences in this call."""


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """The result of a policy loss."""

    loss: Tensor
    """Loss of each token to be minimised, [tokens]; the objective is the weighted sum over tokens (see
    `aggregation_weights`)."""
    metrics: Mapping[str, Tensor | TokenMetric]
    """Metrics of the tokens by name: a tensor [tokens] is reported as its mean over all response tokens of the update,
    a `TokenMetric` as its own reduction says."""


PolicyLoss = Callable[[TokenTerms, AlgorithmConfig], TokenLoss]


def token_level(loss: L) -> L:
    """Mark a loss that looks at each token alone, whatever `sequence` says. It is computed in one pass, a piece of the
    tokens at a time."""
    loss.token_level = True  # type: ignore[attr-defined]
    return loss


def is_token_level(loss: PolicyLoss) -> bool:
    """Check whether `token_level` marked the loss."""
    return getattr(loss, "token_level", False)


def loss_settings(config: AlgorithmConfig) -> PolicyLossSettings:
    """Return the part of `config` that the kernels need."""
    return PolicyLossSettings(**{field.name: getattr(config, field.name) for field in fields(PolicyLossSettings)})
