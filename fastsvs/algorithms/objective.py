"""The token loss that the policy minimises: surrogate x rollout correction + KL to the reference - entropy bonus."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fastsvs.algorithms.correction import rollout_weights
from fastsvs.algorithms.kl import kl_estimate
from fastsvs.algorithms.losses import LOG_RATIO_LIMIT, LOSSES, clamped_log_ratio
from fastsvs.algorithms.terms import PolicyLoss, TokenLoss, TokenTerms
from fastsvs.config import AlgorithmConfig
from fastsvs.errors import UserError


def policy_loss(config: AlgorithmConfig) -> PolicyLoss:
    """The loss that `config` describes, checked now. Raises UserError for an unknown name or an empty range."""
    surrogate = LOSSES.get(config.loss)
    _check_ranges(config)

    def loss(terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
        policy = surrogate(terms, config)
        weights, correction_metrics = rollout_weights(terms, config)
        total = TokenLoss(policy.loss * weights, {**_ratio_metrics(terms), **policy.metrics, **correction_metrics})
        return _with_entropy_bonus(_with_reference_kl(total, terms, config), terms, config)

    return loss


def _with_reference_kl(total: TokenLoss, terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    if config.kl_coefficient == 0:
        return total
    if terms.reference_logprobs is None:
        raise ValueError("kl_coefficient is not 0, but the batch has no reference log-probs")
    kl = kl_estimate(terms.logprobs, terms.reference_logprobs, config.kl_estimator)
    return TokenLoss(total.loss + config.kl_coefficient * kl, {**total.metrics, "reference_kl": kl.detach()})


def _with_entropy_bonus(total: TokenLoss, terms: TokenTerms, config: AlgorithmConfig) -> TokenLoss:
    if config.entropy_coefficient == 0:
        return total
    return replace(total, loss=total.loss - config.entropy_coefficient * terms.entropy)


def _ratio_metrics(terms: TokenTerms) -> dict[str, Tensor]:
    """`approx_kl` is the k3 estimate of KL(old || policy); `rollout_mismatch` compares trainer and engine at the same
    weights."""
    now, old = terms.logprobs.detach(), terms.old_logprobs
    log_ratio = clamped_log_ratio(now, old)
    return {
        "ratio": log_ratio.exp(),
        "ratio_cut": ((now - old).abs() > LOG_RATIO_LIMIT).to(now.dtype),
        "approx_kl": torch.expm1(log_ratio) - log_ratio,
        "rollout_mismatch": (old - terms.rollout_logprobs).abs(),
    }


def _check_ranges(config: AlgorithmConfig) -> None:
    ranges = {"ratio_min, ratio_max": (config.ratio_min, config.ratio_max), "icepop_range": config.icepop_range}
    for name, (low, high) in ranges.items():
        if not 0 <= low < high:
            raise UserError(f"algorithm.{name} must be 0 <= low < high, got {low} and {high}")
