"""Logits kept for backward: one pass that subtracts each row's maximum and rounds."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .rows_triton import stride
from .table import row_cut, warps


def keep(logits: Tensor, inverse: Tensor | None, tops: Tensor, out: Tensor) -> None:
    """Write what `dispatch.keep` says. A row is read and written as the gradient of logits is, and cut as there."""
    rows, columns = logits.shape
    config, parts, span = row_cut("logits_gradient", logits)
    if rows:
        keep_kernel[(rows * parts,)](
            logits,
            logits.stride(0),
            inverse,
            stride(inverse),
            tops,
            out,
            out.stride(0),
            columns,
            parts,
            span,
            BLOCK=config.block,
            num_warps=warps(config.threads, logits.device),
            enable_fp_fusion=True,
        )


@triton.jit(do_not_specialize=["parts"])
def keep_kernel(
    logits,
    row_stride,
    inverse_temperature,
    temperature_stride,
    tops,
    out,
    out_stride,
    columns,
    parts,
    span,
    BLOCK: tl.constexpr,
):
    """Keep columns part * span up to span further of a row, in program row * parts + part."""
    row = (tl.program_id(0) // parts).to(tl.int64)
    begin = tl.program_id(0) % parts * span
    end = tl.minimum(begin + span, columns)
    whole = begin + (end - begin) // BLOCK * BLOCK
    lanes = tl.arange(0, BLOCK)
    row_logits = logits + row * row_stride
    row_out = out + row * out_stride
    inverse = 1.0
    if inverse_temperature is not None:
        inverse = tl.load(inverse_temperature + row * temperature_stride)
    top = tl.load(tops + row)
    for start in tl.range(begin, whole, BLOCK):
        z = tl.load(row_logits + start + lanes)
        tl.store(row_out + start + lanes, tl.fma(z, inverse, -top).to(out.dtype.element_ty))
    if whole < end:
        held = whole + lanes < end
        z = tl.load(row_logits + whole + lanes, mask=held, other=0.0)
        tl.store(row_out + whole + lanes, tl.fma(z, inverse, -top).to(out.dtype.element_ty), mask=held)
