"""Sums over the samples that share a prompt."""

from __future__ import annotations

import torch
from torch import Tensor


def group_sizes_and_sums(values: Tensor, groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each sample's group, the group sizes and the group sums: `[samples]` int64, `[groups]` float64 and
    `[groups]` float64.

    In float64 the sum of a group of equal fp32 rewards is exact, so its advantages are exactly 0.
    """
    _, index, counts = groups.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, index, values.double())
    return index, counts.double(), sums
