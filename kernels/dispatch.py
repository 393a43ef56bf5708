"""The one place where a device gets its implementation: Triton and cuBLAS for CUDA, plain torch for everything else."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

from . import rows_torch
from .rows_torch import accumulation_dtype


def row_kernels(like: Tensor) -> ModuleType:
    """Return the module of the row kernels for `like`: `rows_triton` or `rows_torch`, which have the same functions."""
    if like.is_cuda and like.dtype != torch.float64:
        return importlib.import_module(".rows_triton", __package__)  # Triton is there only with CUDA
    return rows_torch


def policy_kernels(like: Tensor) -> ModuleType:
    """Return the module of the token losses for `like`: `token_loss_triton` or `token_loss`, which both have
    `token_gradients`."""
    name = ".token_loss_triton" if like.is_cuda and like.dtype != torch.float64 else ".token_loss"
    return importlib.import_module(name, __package__)


def check_rows(targets: Tensor, inverse: Tensor | None, size: int) -> None:
    """Raise ValueError for a target that is neither in 0..size-1 nor IGNORE_INDEX, and for a temperature that is not
    above 0, given its inverse. On CUDA an assertion on the device takes its place, so that nothing waits for the
    outcome."""
    if targets.is_cuda:
        importlib.import_module(".checks_triton", __package__).assert_rows(targets, inverse, size)
    else:
        importlib.import_module(".arguments", __package__).kept_rows(targets, inverse, size)


def new_tile(rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return an uninitialised tile [rows, columns] of logits or their gradient, whose rows start at multiples of 128
    bytes or more."""
    stride = -(-columns // 64) * 64
    return like.new_empty(rows, stride, dtype=dtype)[:, :columns]


def new_weight_grad(weight: Tensor, dtype: torch.dtype, written: int) -> Tensor:
    """Return a gradient like `weight` [columns, hidden]: uninitialised in the first `written` columns, 0 from there
    on."""
    gradient = torch.empty_like(weight, dtype=dtype)
    gradient[written:] = 0
    return gradient


def write_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Write left @ right into `out`. The product is accumulated in fp32 at least and rounded to the dtype of `out`. It
    is rounded once, unless cuBLAS adds it up in parts, which it may do where `out` has fewer tiles than the GPU has
    multiprocessors."""
    dtype = accumulation_dtype(left)
    if left.dtype == right.dtype == out.dtype and (left.is_cuda or out.dtype == dtype):
        torch.mm(left, right, out=out)
    elif left.is_cuda:
        torch.mm(left, right, out_dtype=out.dtype, out=out)
    elif out.dtype == dtype:
        torch.mm(left.to(dtype), right.to(dtype), out=out)
    else:
        out.copy_(left.to(dtype) @ right.to(dtype))


def add_product(left: Tensor, right: Tensor, total: Tensor) -> None:
    """Add left @ right to `total`, accumulated in the dtype of `total`."""
    if left.dtype == right.dtype == total.dtype or not left.is_cuda:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)


def scale(values: Tensor, factor: Tensor) -> None:
    """Multiply dense `values` by `factor` [] in place. A factor of 1 costs nothing, and nothing waits for the
    device."""
    if values.is_cuda and values.dtype != torch.float64:
        importlib.import_module(".scale_triton", __package__).scale(values, factor)
    elif values.is_cuda or factor != 1:
        values.mul_(factor)


def keep(logits: Tensor, inverse: Tensor | None, tops: Tensor, out: Tensor) -> None:
    """Write logits * inverse temperature - tops into `out` [rows, columns], rounded to its dtype; `tops` [rows]."""
    if logits.is_cuda:
        importlib.import_module(".keep_triton", __package__).keep(logits, inverse, tops, out)
    else:
        out.copy_((logits if inverse is None else logits * inverse[:, None]) - tops[:, None])


def operand_dtype(like: Tensor) -> torch.dtype:
    """Return the dtype of the logits' gradient in matrix products; tensor cores want the model's own."""
    return like.dtype if like.is_cuda else accumulation_dtype(like)
