"""Attention of packed rows that hold a prompt once, before all of its responses.

Each token attends causally to its own part of the row (a prompt, a response, or a whole sequence), and each response
without a mask to its prompt. The two are calls of their own, merged by their log-sum-exps: with L = log(exp(L1) +
exp(L2)), the output is exp(L1 - L) O1 + exp(L2 - L) O2. FlashAttention's backward pass recomputes each probability as
exp(score - L), and subtracts the sum of the output times its gradient; given the merged output and L it gives each
call's exact share of the gradients. Nothing of size tokens x tokens is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Gradients = tuple[Tensor, Tensor, Tensor]
"""Gradients of query, key and value."""


@dataclass(frozen=True, slots=True)
class SharedPrompts:
    """The prompts that several responses of a row share. They stand at its start, and after them their responses."""

    prompts: Sequence[int]
    """Length of each shared prompt in tokens, [prompts] in row order."""
    responses: Sequence[int]
    """Number of tokens of all responses to each shared prompt, [prompts] in the same order."""
    prompt_bounds: Tensor
    """Start of each shared prompt in the row, then the end of the last, [prompts + 1] int32."""
    response_bounds: Tensor
    """Start of the responses to each shared prompt, counted from the end of the prompts, then the end of the last,
    [prompts + 1] int32."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Runs of queries, and the run of keys that each of them attends to."""

    queries: Sequence[int]
    """Length of each run of queries in tokens, [runs]; the runs fill the query tensor."""
    keys: Sequence[int]
    """Length of each run of keys in tokens, [runs]; the runs fill the key tensor."""
    query_bounds: Tensor
    """Start of each run of queries, then the end of the last, [runs + 1] int32."""
    key_bounds: Tensor
    """Start of each run of keys, then the end of the last, [runs + 1] int32."""
    causal: bool
    """True where a query sees the keys up to its own place alone; queries and keys are then of equal lengths."""


class Kernel(Protocol):
    """An attention that tells its log-sum-exps, and whose backward pass takes them.

    Queries and outputs are [queries, heads, head_dim], keys and values [keys, groups, head_dim], log-sum-exps
    [heads, queries] fp32. Scores are scaled by head_dim ** -0.5.
    """

    def forward(self, query: Tensor, key: Tensor, value: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        """Return the output and the log-sum-exps of the scores."""

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor, spans: Spans
    ) -> Gradients:
        """Return the gradients of these keys' share of an attention, of which `output` and the log-sum-exps `sums`
        hold all keys' shares."""


class SharedPacking(Protocol):
    """The part of a packed row that this attention reads (see `policy.modules.PackedSequences`)."""

    lengths: Sequence[int]
    bounds: Tensor
    shared: SharedPrompts | None


def attend_shared(query: Tensor, key: Tensor, value: Tensor, packing: SharedPacking) -> Tensor:
    """Attend causally within each part of the row, and from each response to its shared prompt.

    `query` is [tokens, heads, head_dim], `key` and `value` [tokens, groups, head_dim], the result as `query`.
    """
    shared = packing.shared
    assert shared is not None
    own = Spans(packing.lengths, packing.lengths, packing.bounds, packing.bounds, causal=True)
    prefix = Spans(shared.responses, shared.prompts, shared.response_bounds, shared.prompt_bounds, causal=False)
    return _Merged.apply(query, key, value, own, prefix, KERNELS[query.device.type])


def merge(output: Tensor, sums: Tensor, other: Tensor, other_sums: Tensor) -> None:
    """Merge an attention over other keys into `output` [queries, heads, head_dim] and its log-sum-exps `sums`
    [heads, queries], in place."""
    total = torch.logaddexp(sums, other_sums)
    mine, theirs = ((part - total).exp().T.unsqueeze(-1) for part in (sums, other_sums))
    output.copy_(output * mine + other * theirs)
    sums.copy_(total)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, own: Spans, prefix: Spans, kernel: Kernel
    ) -> Tensor:
        output, sums = kernel.forward(query, key, value, own)
        prompts, responses = _places(prefix)
        seen = kernel.forward(query[responses], key[prompts], value[prompts], prefix)
        merge(output[responses], sums[:, responses], *seen)
        ctx.save_for_backward(query, key, value, output, sums)  # whole inputs: recomputation knows them again
        ctx.own, ctx.prefix, ctx.kernel = own, prefix, kernel
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, output, sums = ctx.saved_tensors
        gradient = gradient.contiguous()
        d_query, d_key, d_value = ctx.kernel.backward(gradient, query, key, value, output, sums, ctx.own)
        prompts, responses = _places(ctx.prefix)
        more_query, more_key, more_value = ctx.kernel.backward(
            gradient[responses],
            query[responses],
            key[prompts],
            value[prompts],
            output[responses],
            sums[:, responses].contiguous(),
            ctx.prefix,
        )
        d_query[responses] += more_query
        d_key[prompts] += more_key
        d_value[prompts] += more_value
        return d_query, d_key, d_value, None, None, None


def _places(prefix: Spans) -> tuple[slice, slice]:
    """Return the places of the shared prompts and of their responses in the row."""
    prompts = sum(prefix.keys)
    return slice(prompts), slice(prompts, prompts + sum(prefix.queries))


class CpuKernel:
    """The blocked attention of torch's scaled_dot_product_attention on a CPU. Neighbours of equal lengths form one
    dense batch."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        key, value = repeated(key, query), repeated(value, query)
        parts = []
        for runs in _dense_batches(spans):
            q, k, v = runs.queries_of(query), runs.keys_of(key), runs.keys_of(value)
            output, sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, spans.causal)
            parts.append((_packed(output), sums.transpose(0, 1).flatten(1)))
        outputs, log_sum_exps = zip(*parts, strict=True)
        return torch.cat(outputs), torch.cat(log_sum_exps, dim=1)

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor, spans: Spans
    ) -> Gradients:
        groups = key.shape[1]
        key, value = repeated(key, query), repeated(value, query)
        parts = []
        for runs in _dense_batches(spans):
            d_output, q, out = (runs.queries_of(x) for x in (gradient, query, output))
            k, v = runs.keys_of(key), runs.keys_of(value)
            lse = sums[:, runs.queries].unflatten(1, (runs.count, -1)).transpose(0, 1)
            found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                d_output, q, k, v, out, lse, 0.0, spans.causal
            )
            parts.append([_packed(x) for x in found])
        d_query, d_key, d_value = (torch.cat(part) for part in zip(*parts, strict=True))
        return d_query, *(x.unflatten(1, (groups, -1)).sum(2) for x in (d_key, d_value))


class CudaKernel:
    """The FlashAttention 2 of torch itself, for 16-bit floating point."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, spans: Spans) -> tuple[Tensor, Tensor]:
        output, sums, *_ = torch.ops.aten._flash_attention_forward(
            query, repeated(key, query), repeated(value, query), *_extent(spans), 0.0, spans.causal, False
        )
        return output, sums

    def backward(
        self, gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, sums: Tensor, spans: Spans
    ) -> Gradients:
        groups = key.shape[1]
        key, value = repeated(key, query), repeated(value, query)
        state, unused = query.new_zeros(2, dtype=torch.uint64), query.new_empty(0)  # both belong to dropout
        d_query, d_key, d_value = torch.ops.aten._flash_attention_backward(
            gradient, query, key, value, output, sums, *_extent(spans), 0.0, spans.causal, state, unused
        )
        return d_query, *(x.unflatten(1, (groups, -1)).sum(2) for x in (d_key, d_value))


KERNELS: dict[str, Kernel] = {"cpu": CpuKernel(), "cuda": CudaKernel()}
"""Kernel of each type of device."""


@dataclass(frozen=True, slots=True)
class _Runs:
    """Neighbouring runs of equal lengths, as one dense batch."""

    count: int
    queries: slice
    keys: slice

    def queries_of(self, x: Tensor) -> Tensor:
        """Return the runs of `x` [queries, heads, head_dim] as [runs, heads, queries of a run, head_dim]."""
        return x[self.queries].unflatten(0, (self.count, -1)).transpose(1, 2)

    def keys_of(self, x: Tensor) -> Tensor:
        """Return the runs of `x` [keys, heads, head_dim] as [runs, heads, keys of a run, head_dim]."""
        return x[self.keys].unflatten(0, (self.count, -1)).transpose(1, 2)


def _dense_batches(spans: Spans) -> Iterator[_Runs]:
    """Yield the runs, neighbours of equal lengths together."""
    query = key = 0
    for (queries, keys), run in groupby(zip(spans.queries, spans.keys, strict=True)):
        count = len(list(run))
        yield _Runs(count, slice(query, query + count * queries), slice(key, key + count * keys))
        query, key = query + count * queries, key + count * keys


def _packed(x: Tensor) -> Tensor:
    """Return `x` [runs, heads, tokens, head_dim] as [runs * tokens, heads, head_dim]."""
    return x.transpose(1, 2).flatten(0, 1)


def _extent(spans: Spans) -> tuple[Tensor, Tensor, int, int]:
    """Return the bounds and longest lengths of queries and keys, in the order in which torch takes them."""
    return spans.query_bounds, spans.key_bounds, max(spans.queries), max(spans.keys)


def repeated(x: Tensor, query: Tensor) -> Tensor:
    """Return `x` [tokens, groups, head_dim] repeated to the heads of `query`."""
    return x.repeat_interleave(query.shape[1] // x.shape[1], dim=1)
