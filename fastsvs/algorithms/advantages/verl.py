"""VERL: advantages that follow the effective rank of the hidden states (github.com/hf618/VERL).

This is the paper's form, which shapes the whole response. The released configuration shapes nothing, and the released
code shapes at most the last token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastsvs.algorithms.advantages.registry import ADVANTAGES
from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context
from fastsvs.config import VerlConfig

LIMIT = 5.0
EPSILON = 1e-8


@ADVANTAGES.register("verl")
def verl(batch: Batch, context: Context) -> Tensor:
    """Return the advantages of `verl.base`, shaped, and remember the running means of rank, velocity and
    acceleration."""
    config = context.config.verl
    advantages = ADVANTAGES.get(config.base)(batch, context)
    if not len(batch):
        return advantages
    ranks = context.probe.ranks(batch, config.window, config.stride)
    bonus = shaping(ranks, running_means(context.state, config), config.gain)
    if advantages.shape != (len(batch),):
        bonus = bonus.repeat_interleave(batch.response_lengths)
    shaped = shaped_advantages(advantages, bonus, config.kappa)
    remember(context.state, ranks, config)
    context.metrics["verl_bonus"] = float(bonus.mean())
    context.metrics["verl_raised"] = float((shaped != advantages).float().mean())
    return shaped


def shaping(ranks: Tensor, means: Tensor, gain: float) -> Tensor:
    """Return Phi `[samples]` from (rank, velocity, acceleration) `[samples, 3]` and their running means `[3]`.

    d_k = clamp((m_k - mu_k) / (|mu_k| + 1e-8), -5, 5) and beta = sigmoid(gain d_acceleration); then
    Phi = beta tanh(d_rank) + (1 - beta) tanh(d_velocity).
    """
    deviations = ((ranks - means) / (means.abs() + EPSILON)).clamp(-LIMIT, LIMIT)
    rank, velocity, acceleration = deviations.unbind(dim=1)
    beta = torch.sigmoid(gain * acceleration)
    return beta * rank.tanh() + (1 - beta) * velocity.tanh()


def shaped_advantages(advantages: Tensor, bonus: Tensor, kappa: float) -> Tensor:
    """Return A + min(relu(Phi), |A| / kappa). With kappa > 1 no sign flips; an advantage of 0 stays 0."""
    return advantages + torch.minimum(bonus.clamp(min=0).to(advantages.dtype), advantages.abs() / kappa)


def running_means(memory: Mapping[str, Any], config: VerlConfig) -> Tensor:
    """Return the running means `[3]` of the steps before this one. They are 0 before the first, as in the VERL code."""
    means = torch.tensor(memory.get("means", [0.0] * 3), dtype=torch.float64)
    gathered = 1 - (1 - config.momentum) ** memory.get("steps", 0)
    return means / gathered if config.bias_correction and gathered else means


def remember(memory: dict[str, Any], ranks: Tensor, config: VerlConfig) -> None:
    """Add the means of this step's `ranks` `[samples, 3]` to the running means in `memory`."""
    means = torch.tensor(memory.get("means", [0.0] * 3), dtype=torch.float64)
    memory["means"] = torch.lerp(means, ranks.mean(dim=0), config.momentum).tolist()
    memory["steps"] = memory.get("steps", 0) + 1
