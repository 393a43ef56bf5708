"""What a token-level policy loss sees and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from torch import Tensor

from fastsvs.config import AlgorithmConfig
from fastsvs.kernels import PolicyLossSettings

L = TypeVar("L", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class TokenTerms:
    """The response tokens of whole sequences (a sequence is never split), all `[tokens]`."""

    logprobs: Tensor
    """Current policy, with gradient, at the sampling temperature."""
    entropy: Tensor
    """Of the current policy in nats; with gradient when the entropy coefficient is not 0."""
    old_logprobs: Tensor
    """Policy before the batch's first update (equal to `logprobs.detach()` on-policy)."""
    rollout_logprobs: Tensor
    reference_logprobs: Tensor | None
    advantages: Tensor
    sequence: Tensor
    """int64: which sequence of this call a token belongs to, 0..sequences-1, non-decreasing."""
    sequences: int


@dataclass(frozen=True, slots=True)
class TokenLoss:
    loss: Tensor
    """[tokens] to be minimised: the objective is the weighted sum over tokens (see `aggregation_weights`)."""
    metrics: dict[str, Tensor]
    """[tokens] each, detached: reported as their mean over all response tokens of the update."""


PolicyLoss = Callable[[TokenTerms, AlgorithmConfig], TokenLoss]


def token_level(loss: L) -> L:
    """Marks a loss that looks at each token alone, whatever `sequence` says: it is computed in one pass, a piece of the
    tokens at a time."""
    loss.token_level = True  # type: ignore[attr-defined]
    return loss


def is_token_level(loss: PolicyLoss) -> bool:
    return getattr(loss, "token_level", False)


def loss_settings(config: AlgorithmConfig) -> PolicyLossSettings:
    """The part of `config` that the kernels need to know."""
    return PolicyLossSettings(**{field.name: getattr(config, field.name) for field in fields(PolicyLossSettings)})
