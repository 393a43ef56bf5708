"""Attention of a packed row with the bits that each of its sequences has alone; see `fastsvs.invariant`.

The backward pass is that of the usual attention, which gives the same gradients up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastsvs.invariant import attend as attend_invariantly
from fastsvs.invariant import whole_splits
from fastsvs.policy.attention import sdpa
from fastsvs.policy.shared_attention import SharedPacking, SharedPrompts, attend_shared


def attend_alone(query: Tensor, key: Tensor, value: Tensor, packing: SharedPacking) -> Tensor:
    """Attend causally within each sequence, and to the shared prompt that it continues.

    `query` is [tokens, heads, head_dim] fp32 on a CPU, `key` and `value` [tokens, groups, head_dim], the result as
    `query`.
    """
    return _Alone.apply(query, key, value, packing)


class _Alone(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: SharedPacking) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.packing = packing
        return torch.cat([_attend_run(query, key, value, *run) for run in _runs(packing)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        query, key, value = inputs
        with torch.enable_grad():
            usual = attend_shared if ctx.packing.shared else sdpa
            output = usual(query, key, value, ctx.packing)
        return *torch.autograd.grad(output, inputs, gradient), None


def _runs(packing: SharedPacking) -> Iterator[tuple[int, int, list[slice]]]:
    """Yield (start, length of each, prompt of each) of neighbours that have one length and prompts of one length. The
    prompt of a sequence that shares none is empty."""
    prompts = list(_prompts(packing.shared, packing.lengths))
    start = 0
    sequences = zip(packing.lengths, prompts, strict=True)
    for (length, _), run in groupby(sequences, lambda sequence: (sequence[0], sequence[1].stop - sequence[1].start)):
        shared = [prompt for _, prompt in run]
        yield start, length, shared
        start += length * len(shared)


def _prompts(shared: SharedPrompts | None, lengths: Sequence[int]) -> Iterator[slice]:
    """Yield the place in the row of the shared prompt that each sequence continues: none for the prompts themselves and
    for those that stand alone."""
    places: list[slice] = []
    ends: list[int] = []
    start, end = 0, sum(shared.prompts) if shared else 0
    for prompt, responses in zip(shared.prompts, shared.responses, strict=True) if shared else ():
        places.append(slice(start, start + prompt))
        ends.append(end := end + responses)
        start += prompt
    position, bundle = 0, 0
    for length in lengths:
        while bundle < len(ends) and position >= ends[bundle]:
            bundle += 1
        continues = shared is not None and position >= sum(shared.prompts) and bundle < len(ends)
        yield places[bundle] if continues else slice(0, 0)
        position += length


def _attend_run(query: Tensor, key: Tensor, value: Tensor, start: int, length: int, prompts: list[slice]) -> Tensor:
    """Return the attention [tokens, heads, head_dim] of one run of sequences."""
    count, before = len(prompts), prompts[0].stop - prompts[0].start
    own = slice(start, start + count * length)
    keys, values = (
        torch.cat([torch.stack([x[prompt] for prompt in prompts]), x[own].unflatten(0, (count, length))], dim=1)
        for x in (key, value)
    )
    room = whole_splits(before + length)
    laid_keys = keys.new_zeros(count, keys.shape[2], keys.shape[3], room)
    laid_keys[..., : before + length] = keys.permute(0, 2, 3, 1)
    laid_values = values.new_zeros(count, values.shape[2], room, values.shape[3])
    laid_values[:, :, : before + length] = values.transpose(1, 2)
    seen = torch.arange(before + 1, before + length + 1).expand(count, -1)
    return attend_invariantly(query[own].unflatten(0, (count, length)), laid_keys, laid_values, seen).flatten(0, 1)
