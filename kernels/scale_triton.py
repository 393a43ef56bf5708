"""Scaling in place by a number that only the device knows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .table import warps

BLOCK = 4096
THREADS = 256
PROGRAMS = 1024
"""Number of programs: enough to fill any GPU, and few enough to end at once when there is nothing to do."""


def scale(values: Tensor, factor: Tensor) -> None:
    """Multiply `values` by `factor` [] in place, as `dispatch.scale` does."""
    count = values.numel()
    programs = min(triton.cdiv(count, BLOCK), PROGRAMS)
    if programs:
        scale_kernel[(programs,)](values, factor, count, BLOCK=BLOCK, num_warps=warps(THREADS, values.device))


@triton.jit
def scale_kernel(values, factor, count, BLOCK: tl.constexpr):
    """Multiply `values` by the number at `factor`; programs take blocks in turn, and do nothing for a factor of 1."""
    by = tl.load(factor).to(tl.float32)
    if by != 1:
        lanes = tl.arange(0, BLOCK)
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        for start in tl.range(tl.program_id(0).to(tl.int64) * BLOCK, count, step):
            held = start + lanes < count
            value = tl.load(values + start + lanes, mask=held).to(tl.float32) * by
            tl.store(values + start + lanes, value.to(values.dtype.element_ty), mask=held)
