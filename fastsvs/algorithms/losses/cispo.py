"""CISPO (MiniMax-M1, arXiv 2506.13585, equation 4): the importance weight is clipped, no token loses its gradient."""

from __future__ import annotations

from fastsvs.algorithms.losses.registry import LOSSES, clamped_log_ratio
from fastsvs.algorithms.terms import TokenLoss, TokenTerms
from fastsvs.config import AlgorithmConfig


@LOSSES.register("cispo")
def cispo(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    """`-sg(clip(r, ratio_min, ratio_max)) A logp`: the bounds are of the ratio itself, not distances from 1."""
    ratio = clamped_log_ratio(terms.logprobs.detach(), terms.old_logprobs).exp()
    weight = ratio.clamp(config.ratio_min, config.ratio_max)
    loss = -weight * terms.advantages * terms.logprobs
    metrics = {
        "clip_fraction_low": (ratio < config.ratio_min).to(loss.dtype),
        "clip_fraction_high": (ratio > config.ratio_max).to(loss.dtype),
    }
    return TokenLoss(loss, metrics)
