"""Checks of what only the device knows, by assertions in a kernel: nothing waits for their outcome."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .rows_torch import IGNORE_INDEX
from .table import warps

IGNORED = tl.constexpr(IGNORE_INDEX)
BLOCK = 1024
THREADS = 128


def assert_rows(targets: Tensor, inverse: Tensor | None, size: int) -> None:
    """Assert that `targets` [rows] lie in 0..size-1 or are IGNORE_INDEX, and that the inverse temperature [rows] is
    above 0. Where that is not so, the process says it on stderr, and its next wait for the device raises
    RuntimeError."""
    rows = len(targets)
    if rows:
        stride = 1 if inverse is None else inverse.stride(0)
        assert_rows_kernel[(triton.cdiv(rows, BLOCK),)](
            targets, inverse, stride, size, rows, BLOCK=BLOCK, num_warps=warps(THREADS, targets.device)
        )


@triton.jit(debug=True)
def assert_rows_kernel(targets, inverse, inverse_stride, size, rows, BLOCK: tl.constexpr):
    """Assert what `assert_rows` says, for BLOCK rows per program."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    target = tl.load(targets + row, mask=row < rows, other=IGNORED)
    inside = (target == IGNORED) | ((target >= 0) & (target < size))
    tl.device_assert(inside, "targets must lie in the vocabulary; rows to leave out have IGNORE_INDEX")
    if inverse is not None:
        above = tl.load(inverse + row * inverse_stride, mask=row < rows, other=1.0) > 0
        tl.device_assert(above, "temperature must be above 0 everywhere")
