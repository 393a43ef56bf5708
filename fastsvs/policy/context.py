"""Context parallelism: ranks that share out the tokens of a packed row, and within attention its heads (Ulysses,
arXiv 2309.14509).

Everything but attention looks at each token alone. Attention is computed for the whole row by each rank, with an equal
share of the heads, so that all ranks have the same work whatever the lengths of the sequences, and every attention and
every packing serves. Two all-to-alls a layer change from one way of sharing to the other and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import parallel_state as mpu
from megatron.core.tensor_parallel.mappings import all_to_all
from torch import Tensor
from torch.autograd.function import once_differentiable


def to_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of the whole row for this rank's share of the heads, given those of this rank's share
    of the tokens for all heads. They are [tokens, heads, head_dim]; `key` and `value` may have fewer heads."""
    group = mpu.get_context_parallel_group()
    ranks = group.size()
    if ranks == 1:
        return query, key, value
    shares = [_repeated(x, ranks).unflatten(1, (ranks, -1)) for x in (query, key, value)]
    arrived = all_to_all(group, torch.cat(shares, dim=2).transpose(0, 1).flatten(0, 1))
    query, key, value = (x.contiguous() for x in arrived.split([share.shape[2] for share in shares], dim=1))
    return query, key, value


def to_tokens(output: Tensor) -> Tensor:
    """Return attention's output for this rank's share of the tokens and all heads, given that of the whole row for this
    rank's share of the heads. Both are [tokens, heads, head_dim]."""
    group = mpu.get_context_parallel_group()
    if group.size() == 1:
        return output
    return all_to_all(group, output).unflatten(0, (group.size(), -1)).transpose(0, 1).flatten(1, 2)


def _repeated(x: Tensor, ranks: int) -> Tensor:
    """Return `x` [tokens, heads, head_dim] with each head as often as it takes for each rank to get one."""
    return x.repeat_interleave(max(1, ranks // x.shape[1]), dim=1)


@dataclass(frozen=True, slots=True)
class Gather:
    """A gathering of the response tokens of a row from the ranks that share them out."""

    counts: Sequence[int]
    """Number of the response tokens of each rank."""
    order: Tensor
    """Place of each response token among those of all ranks one after another, [response_tokens] int64; empty where
    one rank has all of them."""

    @classmethod
    def of(cls, owners: np.ndarray, ranks: int, device: torch.device) -> Gather:
        """Return the gathering from `ranks` ranks of the tokens that `owners` have, [response_tokens] in the order of
        the row."""
        if ranks == 1:  # most rows are: nothing has to be sorted or sent to the device for them
            return cls([len(owners)], torch.empty(0, dtype=torch.int64))
        counts = np.bincount(owners, minlength=ranks)
        places = np.argsort(np.argsort(owners, kind="stable"), kind="stable")
        return cls(counts.tolist(), torch.from_numpy(places).to(device))

    def __call__(self, values: Tensor) -> Tensor:
        """Return the values of all response tokens of the row, [response_tokens, ...], given those of this rank's.
        Collective. All ranks compute the same of them, so that the gradient of a rank's own values is that of its own
        result."""
        return values if len(self.counts) == 1 else _Gather.apply(values, self.counts)[self.order]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: Sequence[int]) -> Tensor:
        group = mpu.get_context_parallel_group()
        ctx.start, ctx.count = sum(counts[: group.rank()]), counts[group.rank()]
        own = values.new_zeros(max(counts), *values.shape[1:])  # gloo gathers equal shapes alone
        own[: len(values)] = values
        parts = [torch.empty_like(own) for _ in counts]
        dist.all_gather(parts, own, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.start : ctx.start + ctx.count], None
