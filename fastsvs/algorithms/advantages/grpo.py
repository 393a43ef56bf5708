"""Group-relative advantage: GRPO (arXiv 2402.03300, section 4.1.2); without the division, Dr.GRPO (2503.20783)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.algorithms.advantages.groups import group_sizes_and_sums
from fastsvs.algorithms.advantages.registry import ADVANTAGES
from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context

STD_EPSILON = 1e-6


def group_relative(rewards: Tensor, groups: Tensor, normalize_by_std: bool) -> Tensor:
    """Return (r - mean of its group) / (std of its group + 1e-6) for each sample, `[samples]`. The std has ddof 1, and
    the division is optional.

    A group of one has mean 0 and std 1: its reward is its advantage.
    """
    index, sizes, sums = group_sizes_and_sums(rewards, groups)
    single = sizes == 1
    mean = torch.where(single, 0.0, sums / sizes)
    centered = rewards.double() - mean[index]
    if normalize_by_std:
        squares = torch.zeros_like(sums).index_add_(0, index, centered.square())
        std = torch.where(single, 1.0, (squares / (sizes - 1).clamp(min=1)).sqrt())
        centered = centered / (std + STD_EPSILON)[index]
    return centered.to(rewards.dtype)


@ADVANTAGES.register("grpo")
def grpo(batch: Batch, context: Context) -> Tensor:
    """Return group-relative advantages, `[samples]`."""
    return group_relative(batch.rewards, batch.groups, context.config.normalize_by_std)
