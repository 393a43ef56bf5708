"""Launch configurations of the Triton kernels by kernel, element size and row length: looked up, never tuned in place.

Chosen from the compiler's report for sm_90a, sm_80 and sm_100 (registers, spills, 128-bit loads; see bench/codegen).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch


class RowConfig(NamedTuple):
    block: int
    """Columns of a row taken at once."""
    warps: int
    stages: int


ROW_CONFIGS = {
    "row_statistics": {1024: RowConfig(1024, 4, 2), 8192: RowConfig(4096, 8, 2)},
    "logits_gradient": {1024: RowConfig(1024, 4, 2), 8192: RowConfig(4096, 8, 2)},
}
"""Kernel -> longest row that a configuration is for, in rising order; the last one serves longer rows too."""

PROGRAMS_PER_PROCESSOR = 4
"""Rows are split until so many programs run on every streaming multiprocessor."""


def row_config(kernel: str, dtype: torch.dtype, columns: int) -> RowConfig:
    configs = ROW_CONFIGS[kernel]
    return next((config for longest, config in configs.items() if columns <= longest), list(configs.values())[-1])


def splits(rows: int, columns: int, config: RowConfig, device: torch.device) -> int:
    """Programs to share a row: more than one only when rows alone do not fill the device."""
    wanted = -(-PROGRAMS_PER_PROCESSOR * _processors(device) // max(rows, 1))
    most = max(1, columns // (2 * config.block))
    return max(1, min(wanted, most))


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
