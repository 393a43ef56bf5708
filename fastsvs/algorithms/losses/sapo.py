"""SAPO (arXiv 2511.20347): a sigmoid gate around ratio 1 in place of the hard clip."""

from __future__ import annotations

import torch

from fastsvs.algorithms.losses.registry import LOSSES, clamped_log_ratio
from fastsvs.algorithms.terms import TokenLoss, TokenTerms
from fastsvs.config import AlgorithmConfig


@LOSSES.register("sapo")
def sapo(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    """`-A (4 / tau) sigmoid(tau (r - 1))` tau by the sign of A; the gradient at r = 1 is PPO's."""
    ratio = clamped_log_ratio(terms.logprobs, terms.old_logprobs).exp()
    tau = torch.full_like(ratio, config.sapo_temperature_negative)
    tau = tau.masked_fill(terms.advantages > 0, config.sapo_temperature_positive)
    gate = torch.sigmoid(tau * (ratio - 1))
    kept = (4 * gate * (1 - gate)).detach()
    return TokenLoss(-terms.advantages * 4 / tau * gate, {"gradient_kept": kept})
