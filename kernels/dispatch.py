"""The one place where a device gets its implementation: CUDA is Triton and cuBLAS, everything else plain torch."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor

from . import rows_torch
from .rows_torch import accumulation_dtype

CUDA_WORKSPACE = 2400 << 20
"""Bytes of logits alive at a time: 4,096 tokens of a vocabulary of 152k in fp32, enough rows for an efficient matrix
product and few enough passes over the fp32 weight gradient."""
CPU_WORKSPACE = 2 << 20
"""A tile of logits stays in the cache of one core through its elementwise passes."""
CUDA_LEAST = (1024, 4096)
CPU_LEAST = (64, 256)
"""Fewest rows of a piece of whole rows, and fewest columns of a tile, whatever the workspace."""


def row_kernels(like: Tensor) -> ModuleType:
    """`rows_triton` or `rows_torch`: the same functions."""
    if like.is_cuda and like.dtype != torch.float64:
        return importlib.import_module(".rows_triton", __package__)  # Triton is there only with CUDA
    return rows_torch


def policy_kernels(like: Tensor) -> ModuleType:
    """`token_loss_triton` or `token_loss`: both have `token_gradients`."""
    name = ".token_loss_triton" if like.is_cuda and like.dtype != torch.float64 else ".token_loss"
    return importlib.import_module(name, __package__)


def new_logits(rows: int, columns: int, like: Tensor) -> Tensor:
    """Uninitialised [rows, columns] in the accumulation dtype; rows start at multiples of 256 bytes."""
    stride = -(-columns // 64) * 64
    return like.new_empty(rows, stride, dtype=accumulation_dtype(like))[:, :columns]


def write_logits(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """out [rows, columns] = x [rows, hidden] @ weight [columns, hidden].T, in the dtype of `out`."""
    if x.dtype == out.dtype or not x.is_cuda:
        torch.mm(x.to(out.dtype), weight.to(out.dtype).t(), out=out)
    else:
        torch.mm(x, weight.t(), out_dtype=out.dtype, out=out)


def add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, accumulated in the dtype of `total`."""
    if left.dtype == right.dtype == total.dtype or not left.is_cuda:
        total.addmm_(left.to(total.dtype), right.to(total.dtype))
    else:
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)


def write_product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """out = left @ right, accumulated in fp32 at least and rounded once to the dtype of `out`."""
    if left.dtype == right.dtype == out.dtype and (left.is_cuda or out.dtype.itemsize >= 4):
        torch.mm(left, right, out=out)
    else:
        dtype = accumulation_dtype(left)
        out.copy_(left.to(dtype) @ right.to(dtype))


def operand_dtype(like: Tensor) -> torch.dtype:
    """Of the logits' gradient as it enters matrix products: tensor cores want the model's own."""
    return like.dtype if like.is_cuda else accumulation_dtype(like)


def row_spans(rows: int, columns: int, like: Tensor, workspace: int | None) -> list[slice]:
    """Whole rows of logits at a time, in near-equal pieces within `workspace` bytes (None: the device's own)."""
    step = max(_least(like)[0], _cells(like, workspace) // columns)
    pieces = -(-rows // step)
    return spans(rows, -(-rows // max(pieces, 1)))


def tiles(rows: int, columns: int, like: Tensor, workspace: int | None) -> tuple[list[slice], list[slice]]:
    """Row spans and column spans whose tiles of logits fit `workspace`: rows in one piece as long as columns stay
    wide enough for an efficient matrix product."""
    cells = _cells(like, workspace)
    width = max(1, min(columns, max(_least(like)[1], cells // max(rows, 1))))
    return spans(rows, cells // width), spans(columns, width)


def spans(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, max(step, 1))]


def _cells(like: Tensor, workspace: int | None) -> int:
    return (workspace or (CUDA_WORKSPACE if like.is_cuda else CPU_WORKSPACE)) // accumulation_dtype(like).itemsize


def _least(like: Tensor) -> tuple[int, int]:
    return CUDA_LEAST if like.is_cuda else CPU_LEAST
