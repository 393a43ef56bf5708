"""Brings the arguments of the operators into one form: tokens in one row, and this rank's share of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

from .head import Head, as_head
from .rows_torch import IGNORE_INDEX, accumulation_dtype
from .sharded import local_shard
from .vocabulary import vocabulary


@dataclass(frozen=True, slots=True)
class Operands:
    """The inputs of an operator on hidden states, checked."""

    hidden: Tensor
    """Hidden states [tokens, hidden] in the weight's dtype."""
    head: Head
    """This rank's share of the output layer."""
    targets: Tensor
    """Targets [tokens] int64 in one piece of memory, as the kernels read vectors; IGNORE_INDEX for none."""
    inverse: Tensor | None
    """Inverse temperature [tokens] in the accumulation dtype, None for 1."""
    size: int
    """Number of vocabulary entries of all ranks; what the weight has beyond is padding."""
    first: int
    """First entry of this rank."""
    group: str | None
    """Name of the process group that shares the vocabulary; None for a single rank."""
    shape: torch.Size
    """Shape of the caller's targets, and so of the results."""


def operands(
    hidden: Tensor,
    weight: Tensor | Head,
    targets: Tensor,
    temperature: float | Tensor,
    ignore_index: int,
    vocab_size: int | None,
    vocab_start: int | None,
    group: dist.ProcessGroup | None,
) -> Operands:
    """Return the operands of these arguments, which are as in `linear_logprob_entropy`. Raises ValueError when shapes,
    dtypes, devices or a temperature in numbers do not fit."""
    head = as_head(weight)
    hidden, targets, head, vocab_size, vocab_start, group = local_shard(
        hidden, targets, head, vocab_size, vocab_start, group
    )
    matrix, bias = head.weight, head.bias
    if hidden.ndim < 2 or matrix.ndim != 2 or hidden.shape[-1] != matrix.shape[1]:
        raise ValueError(
            f"hidden must be [tokens, hidden], or have more dimensions of tokens, and weight [vocab_shard, hidden], "
            f"got {tuple(hidden.shape)} and {tuple(matrix.shape)}"
        )
    if not hidden.is_floating_point() or torch.promote_types(hidden.dtype, matrix.dtype) != matrix.dtype:
        raise ValueError(
            f"hidden and weight must share a floating dtype, or the weight's be the wider, got {hidden.dtype} and "
            f"{matrix.dtype}"
        )
    if bias is not None and (bias.shape != matrix.shape[:1] or bias.dtype != matrix.dtype):
        raise ValueError(f"bias must be {matrix.dtype} [{len(matrix)}], got {bias.dtype} {list(bias.shape)}")
    if head.softcap is not None and not head.softcap > 0:
        raise ValueError(f"softcap must be above 0, or None, got {head.softcap}")
    shape = targets.shape
    flat = hidden.reshape(-1, hidden.shape[-1]).to(matrix.dtype)
    targets = one_row(targets, hidden, ignore_index)
    size, first, name = vocabulary(len(matrix), vocab_size, group, vocab_start)
    inverse = inverse_temperature(temperature, flat, shape)
    return Operands(flat, head, targets, inverse, size, first, name, shape)


def one_row(targets: Tensor, like: Tensor, ignore_index: int) -> Tensor:
    """Return `targets` as [rows] int64 in one piece of memory, with IGNORE_INDEX for `ignore_index`. Raises ValueError
    when they are not integers, one for each row of `like` [..., columns], on its device."""
    integers = targets.dtype in (torch.int32, torch.int64)
    if targets.shape != like.shape[:-1] or not integers or targets.device != like.device:
        raise ValueError(
            f"targets must be int64 or int32 {list(like.shape[:-1])} on {like.device}, one a row, got {targets.dtype} "
            f"{list(targets.shape)} on {targets.device}"
        )
    targets = targets.reshape(-1).to(torch.int64).contiguous()
    return targets if ignore_index == IGNORE_INDEX else targets.masked_fill(targets == ignore_index, IGNORE_INDEX)


def inverse_temperature(temperature: float | Tensor, like: Tensor, shape: torch.Size) -> Tensor | None:
    """Return the inverse temperature [tokens] in the accumulation dtype of `like` [tokens, ...], or None where it would
    change nothing.

    Raises ValueError for a number that is not above 0, and a tensor that neither is one number nor has the `shape` of
    the tokens.
    """
    if not isinstance(temperature, Tensor):
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0 everywhere, got {temperature}")
        if temperature == 1:
            return None
        temperature = torch.full((), temperature, dtype=torch.float64, device=like.device)  # a copy would wait
    if temperature.ndim and temperature.shape != shape:
        raise ValueError(f"temperature must be a number or {list(shape)}, got {list(temperature.shape)}")
    inverse = (1 / temperature.to(like.device, torch.float64)).to(accumulation_dtype(like))
    return inverse.reshape(-1) if inverse.ndim else inverse.expand(len(like))


def kept_rows(targets: Tensor, inverse: Tensor | None, size: int) -> Tensor | None:
    """Return the indices of the rows that have a target, or None for all rows. Raises ValueError for a target outside
    0..size-1 or a temperature that is not above 0. On CUDA it waits for the device."""
    kept, valid = targets != IGNORE_INDEX, targets.clamp(0, size - 1) == targets
    warm = torch.ones_like(kept) if inverse is None else inverse > 0
    with_target, inside, tempered = torch.stack([kept, valid, warm]).sum(1).tolist()
    if tempered < len(targets):
        raise ValueError("temperature must be above 0 everywhere")
    if with_target > inside:
        wrong = kept & ~valid
        raise ValueError(
            f"{with_target - inside} targets lie outside the vocabulary of {size}, e.g. {int(targets[wrong][0])}; "
            f"rows to leave out have {IGNORE_INDEX}"
        )
    return kept.nonzero().flatten() if with_target < len(targets) else None


def which(rows: Tensor) -> Tensor | None:
    """Return the indices of the `rows` [rows] that are True, or None when all are. On CUDA it waits for the device."""
    found = rows.nonzero().flatten()
    return found if len(found) < len(rows) else None


def pick(values: Tensor, rows: Tensor | slice | None) -> Tensor:
    """Return the values of `rows`, or all values for None."""
    return values if rows is None else values[rows]


def pick_if(values: Tensor | None, rows: Tensor | slice | None) -> Tensor | None:
    """Return the values of `rows`, or None when there are no values."""
    return None if values is None else pick(values, rows)


def spread(values: Tensor, rows: Tensor | None, length: int) -> Tensor:
    """Spread the values of `rows` over [length, ...], with 0 elsewhere: the opposite of `pick`."""
    if rows is None:
        return values
    return values.new_zeros(length, *values.shape[1:]).index_copy_(0, rows, values)


def detached(head: Head) -> Head:
    """Return the output layer without its history."""
    bias = None if head.bias is None else head.bias.detach()
    return replace(head, weight=head.weight.detach(), bias=bias)
