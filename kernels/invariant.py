"""Batch invariance on a CPU: a row's results have the same bits whatever other rows are computed beside it.

Two things tie a row to its company. A library chooses by the shape of a matrix product how it adds it up, and torch
computes an element by another instruction where it is the rest of a vector or of a thread's share of the tensor. So in
this mode products are computed in blocks of a fixed number of rows, and functions that are not exact in whole lines of
vectors, by pieces that torch does not divide among threads. Exact functions (sums and products of two numbers,
quotients, roots) need nothing: they have one result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 32
"""Number of rows of every matrix product: a larger one wastes work on few rows, a smaller one reads weights more
often."""
LINE = 64
"""Number of elements that every line is filled up to: whole vectors of any dtype and processor, two at a time."""
UNDIVIDED = 32767
"""Largest number of elements that torch never divides among threads."""
_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_active = ContextVar("batch_invariant", default=False)


@contextmanager
def batch_invariant(active: bool = True) -> Iterator[None]:
    """Compute in this mode inside, in fp32 on a CPU, or as usual where not `active`; a GPU computes as usual."""
    token = _active.set(active)
    try:
        yield
    finally:
        _active.reset(token)


def is_batch_invariant() -> bool:
    """Return True inside `batch_invariant`."""
    return _active.get()


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return x @ weight.T without gradient, [..., out], of `x` [..., in] and `weight` [out, in], in blocks of ROWS
    rows."""
    flat = x.reshape(-1, x.shape[-1])
    out = flat.new_empty(len(flat), len(weight))
    for start in range(0, len(flat), ROWS):
        block = flat[start : start + ROWS]
        rows = len(block)
        block = block.contiguous() if rows == ROWS else F.pad(block, (0, 0, 0, ROWS - rows))
        out[start : start + rows] = _block(block, weight)[:rows]
    return out.view(*x.shape[:-1], len(weight))


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return `function`, which looks at each element alone, of `x` [..., width]; in this mode line by line."""
    if not _active.get():
        return function(x)
    flat = x.reshape(-1, x.shape[-1])
    width = -(-flat.shape[1] // LINE) * LINE
    step = max(1, UNDIVIDED // width)
    lines, out = flat.new_zeros(min(step, len(flat)), width), torch.empty_like(flat)
    for start in range(0, len(flat), step):
        piece = flat[start : start + step]
        lines[: len(piece), : flat.shape[1]] = piece
        out[start : start + step] = function(lines[: len(piece)])[:, : flat.shape[1]]
    return out.view(x.shape)


def row_sums(x: Tensor) -> Tensor:
    """Return the sums [rows] of `x` [rows, columns]; in this mode never of one row alone, which torch would divide."""
    if _active.get() and len(x) == 1:
        return torch.cat([x, x]).sum(1)[:1]
    return x.sum(1)


def _block(block: Tensor, weight: Tensor) -> Tensor:
    if _ONEDNN and block.dtype is torch.float32 and block.device.type == "cpu":
        return torch.ops.mkldnn._linear_pointwise(block, weight, None, "none", [], "")
    return F.linear(block, weight)
