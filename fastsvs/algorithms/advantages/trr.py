"""TRR++: task-relative REINFORCE++ (Absolute Zero Reasoner, arXiv 2505.03335, section 3.3.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.algorithms.advantages.groups import group_sizes_and_sums
from fastsvs.algorithms.advantages.registry import ADVANTAGES
from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context

VARIANCE_EPSILON = 1e-8


def whitened_by_kind(rewards: Tensor, kinds: Tensor, lengths: Tensor) -> Tensor:
    """Return (r - mean) / sqrt(variance + 1e-8) for each sample, `[samples]`, both over all tokens of its kind (task
    and role).

    With the whole reward on the last token and no discount, every token's return is r, so a sample counts as often as
    it has tokens. The variance has ddof 1. A kind of a single token keeps its reward.
    """
    index, _, tokens = group_sizes_and_sums(lengths, kinds)
    values, weights = rewards.double(), lengths.double()
    single = tokens <= 1
    mean = torch.zeros_like(tokens).index_add_(0, index, values * weights) / tokens
    mean = torch.where(single, 0.0, mean)
    centered = values - mean[index]
    squares = torch.zeros_like(tokens).index_add_(0, index, centered.square() * weights)
    variance = torch.where(single, 1.0, squares / (tokens - 1).clamp(min=1))
    return (centered / (variance + VARIANCE_EPSILON).sqrt()[index]).to(rewards.dtype)


@ADVANTAGES.register("trr")
def trr(batch: Batch, context: Context) -> Tensor:
    """Return task-relative advantages, `[samples]`."""
    names = sorted(set(batch.kinds))
    kinds = torch.tensor([names.index(kind) for kind in batch.kinds], dtype=torch.int64)
    return whitened_by_kind(batch.rewards, kinds, batch.response_lengths)
