"""Clipped surrogate of PPO (arXiv 1707.06347) with DAPO's asymmetric range (2503.14476, equation 10) and the dual clip
for negative advantages (1912.09729, equation 5): the loss of SvS."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.algorithms.losses.registry import LOSSES, clamped_log_ratio
from fastsvs.algorithms.terms import TokenLoss, TokenTerms
from fastsvs.config import AlgorithmConfig


@LOSSES.register("ppo")
def ppo(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    ratio = clamped_log_ratio(terms.logprobs, terms.old_logprobs).exp()
    return clipped_surrogate(ratio, terms.advantages, config)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, config: AlgorithmConfig) -> TokenLoss:
    """`max(-r A, -clip(r, 1 - clip_low, 1 + clip_high) A)`, for A < 0 at most `-dual_clip A`; all `[tokens]`."""
    low, high = 1 - config.clip_low, 1 + config.clip_high
    loss = torch.maximum(-ratio * advantages, -ratio.clamp(low, high) * advantages)
    at = ratio.detach()
    metrics = {
        "clip_fraction_low": (advantages < 0) & (at < low),
        "clip_fraction_high": (advantages > 0) & (at > high),
    }
    if config.dual_clip is not None:
        bound = -config.dual_clip * advantages
        loss = torch.where(advantages < 0, torch.minimum(loss, bound), loss)
        metrics["clip_fraction_dual"] = (advantages < 0) & (at > config.dual_clip)
    return TokenLoss(loss, {name: where.to(loss.dtype) for name, where in metrics.items()})
