"""VERL: advantages that follow the hidden states' effective rank (github.com/hf618/VERL; its paper's form: the whole
response is shaped, where the released configuration shapes nothing and the code at most the last token)."""

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
    """The advantage of `verl.base`, shaped. Remembers the running means of rank, velocity and acceleration."""
    config = context.config.verl
    advantages = ADVANTAGES.get(config.base)(batch, context)
    if not len(batch):
        return advantages
    ranks = context.probe.ranks(batch, config.window, config.stride)
    bonus = shaping(ranks, running_means(context.memory, config), config.gain)
    if advantages.shape != (len(batch),):
        bonus = bonus.repeat_interleave(batch.response_lengths)
    shaped = shaped_advantages(advantages, bonus, config.kappa)
    remember(context.memory, ranks, config)
    context.metrics["verl_bonus"] = float(bonus.mean())
    context.metrics["verl_raised"] = float((shaped != advantages).float().mean())
    return shaped


def shaping(ranks: Tensor, means: Tensor, gain: float) -> Tensor:
    """Phi `[samples]` of (rank, velocity, acceleration) `[samples, 3]` against their running means `[3]`.

    d_k = clamp((m_k - mu_k) / (|mu_k| + 1e-8), -5, 5) and beta = sigmoid(gain d_acceleration); then
    Phi = beta tanh(d_rank) + (1 - beta) tanh(d_velocity).
    """
    deviations = ((ranks - means) / (means.abs() + EPSILON)).clamp(-LIMIT, LIMIT)
    rank, velocity, acceleration = deviations.unbind(dim=1)
    beta = torch.sigmoid(gain * acceleration)
    return beta * rank.tanh() + (1 - beta) * velocity.tanh()


def shaped_advantages(advantages: Tensor, bonus: Tensor, kappa: float) -> Tensor:
    """A + min(relu(Phi), |A| / kappa): with kappa > 1 no sign flips; an advantage of 0 stays 0."""
    return advantages + torch.minimum(bonus.clamp(min=0).to(advantages.dtype), advantages.abs() / kappa)


def running_means(memory: Mapping[str, Any], config: VerlConfig) -> Tensor:
    """`[3]`, of the steps before this one: 0 before the first, as in the VERL code."""
    means = torch.tensor(memory.get("means", [0.0] * 3), dtype=torch.float64)
    gathered = 1 - (1 - config.momentum) ** memory.get("steps", 0)
    return means / gathered if config.bias_correction and gathered else means


def remember(memory: dict[str, Any], ranks: Tensor, config: VerlConfig) -> None:
    means = torch.tensor(memory.get("means", [0.0] * 3), dtype=torch.float64)
    memory["means"] = torch.lerp(means, ranks.mean(dim=0), config.momentum).tolist()
    memory["steps"] = memory.get("steps", 0) + 1
