"""Leave-one-out advantage of RLOO (arXiv 2402.14740, equation 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.algorithms.advantages.groups import group_sizes_and_sums
from fastsvs.algorithms.advantages.registry import ADVANTAGES
from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context


def leave_one_out(rewards: Tensor, groups: Tensor) -> Tensor:
    """Return each reward minus the mean reward of the other samples of its group, `[samples]`. A group of one keeps its
    reward."""
    index, sizes, sums = group_sizes_and_sums(rewards, groups)
    values = rewards.double()
    others = (sizes - 1)[index]
    baseline = torch.where(others == 0, 0.0, (sums[index] - values) / others.clamp(min=1))
    return (values - baseline).to(rewards.dtype)


@ADVANTAGES.register("rloo")
def rloo(batch: Batch, context: Context) -> Tensor:
    """Return leave-one-out advantages, `[samples]`."""
    return leave_one_out(batch.rewards, batch.groups)
