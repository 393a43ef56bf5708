"""Importance weight of the trainer's policy against the engine that sampled, whose log-probs differ slightly."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from fastsvs.algorithms.losses import clamped_log_ratio
from fastsvs.algorithms.terms import TokenTerms
from fastsvs.config import AlgorithmConfig


def rollout_weights(terms: TokenTerms, config: AlgorithmConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Detached weight `[tokens]` of each token's loss, w = exp(old - rollout), and its metrics.

    `tis`: min(w, tis_cap) (truncated importance sampling). `icepop`: w inside icepop_range, 0 outside
    (arXiv 2510.18855). `none`: 1. `correction_limited` is the share of tokens truncated or masked.
    """
    if config.rollout_correction == "none":
        return torch.ones_like(terms.old_logprobs), {}
    raw = clamped_log_ratio(terms.old_logprobs.detach(), terms.rollout_logprobs).exp()
    match config.rollout_correction:
        case "tis":
            limited = raw > config.tis_cap
            weights = raw.clamp(max=config.tis_cap)
        case "icepop":
            low, high = config.icepop_range
            limited = (raw < low) | (raw > high)
            weights = raw.masked_fill(limited, 0.0)
        case _:
            assert_never(config.rollout_correction)
    return weights, {"correction_weight": weights, "correction_limited": limited.to(raw.dtype)}
