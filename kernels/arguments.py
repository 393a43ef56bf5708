"""Checks the arguments of the operators, and brings them into one form."""

from __future__ import annotations

import torch
from torch import Tensor

from .rows_torch import IGNORE_INDEX, accumulation_dtype


def check_linear(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Check hidden states, weight and targets, and return `targets` in one piece of memory, as the kernels read
    vectors. Raises ValueError when shapes, dtypes or devices do not fit."""
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be [tokens, hidden] and weight [vocab_shard, hidden], got {tuple(hidden.shape)} "
            f"and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype or not hidden.is_floating_point():
        raise ValueError(f"hidden and weight must share a floating dtype, got {hidden.dtype} and {weight.dtype}")
    return check_targets(targets, hidden)


def check_targets(targets: Tensor, like: Tensor) -> Tensor:
    """Check that `targets` is int64 [rows] with the rows and the device of `like`, and return it in one piece of
    memory. Raises ValueError when it is not."""
    if targets.shape != (len(like),) or targets.dtype != torch.int64 or targets.device != like.device:
        raise ValueError(
            f"targets must be int64 [{len(like)}] on {like.device}, one a row, got {targets.dtype} "
            f"{list(targets.shape)} on {targets.device}"
        )
    return targets.contiguous()


def kept_rows(targets: Tensor, temperature: float | Tensor, size: int) -> Tensor | None:
    """Return the indices of the rows that have a target, or None for all rows. Raises ValueError for a target outside
    0..size-1 or a temperature that is not above 0. On CUDA it waits for the device, once more for a temperature
    there."""
    check_temperature(temperature)
    kept, valid = targets != IGNORE_INDEX, targets.clamp(0, size - 1) == targets
    with_target, inside = torch.stack([kept, valid]).sum(1).tolist()
    if with_target > inside:
        wrong = kept & ~valid
        raise ValueError(
            f"{with_target - inside} targets lie outside the vocabulary of {size}, e.g. {int(targets[wrong][0])}; "
            f"rows to leave out have {IGNORE_INDEX}"
        )
    return kept.nonzero().flatten() if with_target < len(targets) else None


def check_temperature(temperature: float | Tensor) -> None:
    """Raise ValueError for a temperature that is not above 0."""
    if not (temperature > 0).all() if isinstance(temperature, Tensor) else not temperature > 0:
        raise ValueError("temperature must be above 0 everywhere")


def inverse_temperature(temperature: float | Tensor, like: Tensor) -> Tensor | None:
    """Return the inverse temperature [tokens] in the accumulation dtype of `like` [tokens, ...], or None where it would
    change nothing.

    Raises ValueError when a tensor of temperatures does not have one for each token.
    """
    if not isinstance(temperature, Tensor):
        if temperature == 1:
            return None
        temperature = torch.full((), temperature, dtype=torch.float64, device=like.device)  # a copy would wait
    if temperature.ndim and temperature.shape != (len(like),):
        raise ValueError(f"temperature must be a number or [{len(like)}], got {list(temperature.shape)}")
    return (1 / temperature.to(like.device, torch.float64)).to(accumulation_dtype(like)).expand(len(like))


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
