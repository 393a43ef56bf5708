"""Causal attention within the sequences of a packed row, by the fastest implementation that this process can use.

The choice follows from the modules that import, the device, the dtype and the head size. It is made once per process,
without trials during training. All implementations keep queries, keys, values, output and log-sum-exps for the backward
pass. All but `torch_varlen` and, on a GPU, `sdpa` take grouped keys and values without repeating them. On a GPU the
backward passes add up dQ in no fixed order, so two updates from the same state differ in the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import groupby
from math import ceil
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fastsvs.policy.shared_attention import repeated


class Packing(Protocol):
    """The part of a packed row that attention reads (see `policy.modules.PackedSequences`)."""

    lengths: Sequence[int]
    """Length of each sequence in tokens, [sequences] in row order."""
    bounds: Tensor
    """Start of each sequence in the row, then the end of the row, [sequences + 1] int32."""


Attention = Callable[[Tensor, Tensor, Tensor, Packing], Tensor]
"""Function (query [tokens, heads, head_dim], key and value [tokens, groups, head_dim], packing) -> [tokens, heads,
head_dim]."""


@dataclass(frozen=True, slots=True)
class Implementation:
    """An attention for 16-bit floating point, and what it needs."""

    run: Attention
    module: str
    """Name of the module whose import shows that the implementation is installed."""
    capabilities: range
    """Major compute capabilities of the devices that it has kernels for."""
    largest_head: int
    """Largest head_dim that it has kernels for."""

    def serves(self, capability: int | None, dtype: torch.dtype, head_dim: int) -> bool:
        """Tell whether it has kernels for this major compute capability (None: no GPU), dtype and head size."""
        return (
            capability in self.capabilities
            and dtype in (torch.bfloat16, torch.float16)
            and head_dim % 8 == 0
            and head_dim <= self.largest_head
        )


def attend(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend causally within each sequence, with scores scaled by head_dim ** -0.5.

    `query` is [tokens, heads, head_dim], `key` and `value` [tokens, groups, head_dim], the result as `query`.
    """
    name = chosen(query.device, query.dtype, query.shape[-1])
    return (IMPLEMENTATIONS[name].run if name in IMPLEMENTATIONS else sdpa)(query, key, value, packing)


@cache
def chosen(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Return the name of the implementation that `attend` takes in this process."""
    return choose(_capability(device), dtype, head_dim, present)


def shares(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Tell whether `attend_shared` serves here: on a CPU, and where the FlashAttention 2 of torch does."""
    name = torch_varlen.__name__
    own = IMPLEMENTATIONS[name]
    return device.type == "cpu" or (own.serves(_capability(device), dtype, head_dim) and present(name))


def choose(capability: int | None, dtype: torch.dtype, head_dim: int, present: Callable[[str], bool]) -> str:
    """Return the first of IMPLEMENTATIONS that serves this major compute capability (None: no GPU), dtype and head
    size, and that is `present`, or `sdpa`, which serves all. Those after it are not asked for, as imports take seconds.
    """
    suitable = (
        name for name, known in IMPLEMENTATIONS.items() if known.serves(capability, dtype, head_dim) and present(name)
    )
    return next(suitable, sdpa.__name__)


def present(name: str) -> bool:
    """Tell whether the module of this one of IMPLEMENTATIONS imports. One that is there and broken counts as absent."""
    try:
        import_module(IMPLEMENTATIONS[name].module)
    except Exception:  # whatever a library raises that was built for another torch or driver
        return False
    return True


def flash_attention_3(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend with the `hopper` package of Dao-AILab/flash-attention."""
    from flash_attn_interface import flash_attn_varlen_func

    bounds, longest = packing.bounds, max(packing.lengths)
    return _output(flash_attn_varlen_func(query, key, value, bounds, bounds, longest, longest, causal=True))


def flash_attention_4(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend with the package `flash-attn-4`, whose kernels are compiled at the first call."""
    from flash_attn.cute import flash_attn_varlen_func

    bounds, longest = packing.bounds, max(packing.lengths)
    return _output(
        flash_attn_varlen_func(
            query,
            key,
            value,
            cu_seqlens_q=bounds,
            cu_seqlens_k=bounds,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            causal=True,
        )
    )


def cudnn(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend with cuDNN through its Python frontend, which plans a graph for each number of sequences and longest
    length.

    Both numbers are rounded up, so that fewer graphs are planned. Sequences without tokens fill up the end.
    """
    from cudnn.sdpa.fwd.torch_op import sdpa as packed_attention

    bounds = F.pad(packing.bounds, (0, -len(packing.lengths) % 8), value=query.shape[0])
    longest = ceil(max(packing.lengths) / 1024) * 1024
    output, _log_sum_exp = packed_attention(
        query,
        key,
        value,
        is_causal=True,
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        return_lse=True,  # the backward pass needs it
    )
    return output


def flash_attention_2(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend with the package `flash-attn`."""
    from flash_attn.flash_attn_interface import flash_attn_varlen_func

    bounds, longest = packing.bounds, max(packing.lengths)
    return _output(flash_attn_varlen_func(query, key, value, bounds, bounds, longest, longest, causal=True))


def torch_varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend with the FlashAttention 2 of torch itself, whose interface needs as many heads of keys as of queries."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = packing.bounds, max(packing.lengths)
    key, value = repeated(key, query), repeated(value, query)
    return _output(varlen_attn(query, key, value, bounds, bounds, longest, longest, window_size=(-1, 0)))


def sdpa(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Attend with torch's scaled_dot_product_attention, on any device and dtype. Neighbours of equal length form one
    dense batch without a copy or padding."""
    if query.is_cuda:  # there the fused kernel of fp32 wants as many heads of keys; the other keeps all scores
        key, value = repeated(key, query), repeated(value, query)
    runs = [(length, len(list(run))) for length, run in groupby(packing.lengths)]
    sizes = [length * count for length, count in runs]
    parts = []
    for (length, count), *qkv in zip(runs, query.split(sizes), key.split(sizes), value.split(sizes), strict=True):
        q, k, v = (x.unflatten(0, (count, length)).transpose(1, 2) for x in qkv)
        context = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=not query.is_cuda)
        parts.append(context.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)


# In order of preference.
IMPLEMENTATIONS = {
    implementation.run.__name__: implementation
    for implementation in (
        Implementation(flash_attention_3, "flash_attn_interface", range(9, 10), 256),
        Implementation(flash_attention_4, "flash_attn.cute", range(9, 11), 128),
        Implementation(cudnn, "cudnn.sdpa.fwd.torch_op", range(9, 11), 128),
        Implementation(flash_attention_2, "flash_attn.flash_attn_interface", range(8, 100), 256),
        Implementation(torch_varlen, "torch.nn.attention.varlen", range(8, 100), 256),
    )
}


def _output(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    """Return the output alone; some versions give the log-sum-exps along with it."""
    return result[0] if isinstance(result, tuple) else result


def _capability(device: torch.device) -> int | None:
    """Return the major compute capability of a GPU, and None for a CPU."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else None
