"""Launch configurations of the Triton kernels by kernel, element size and row length: looked up, never tuned in place.

Chosen among what bench.kernels.tune measured on an H200, where nothing spills on sm_90a, sm_80 and sm_100 (see
bench/codegen); the same on all of them, as long as no measurement tells them apart. What is both read and written goes
faster in short spans: then the programs that run at a time, neighbours, work on a narrow window of memory.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch

ANY_LENGTH = 1 << 31


class RowConfig(NamedTuple):
    block: int
    """Columns of a row taken at once."""
    warps: int
    span: int = ANY_LENGTH
    """Columns of a row that one program takes at most."""


ROW_CONFIGS: dict[str, dict[int, dict[int, RowConfig]]] = {
    "row_statistics": {
        2: {1024: RowConfig(1024, 4), 32768: RowConfig(4096, 4), ANY_LENGTH: RowConfig(8192, 8)},
        4: {1024: RowConfig(1024, 4), 32768: RowConfig(4096, 4), ANY_LENGTH: RowConfig(8192, 8)},
    },
    "logits_gradient": {
        2: {1024: RowConfig(1024, 4), 32768: RowConfig(2048, 4, 8192), ANY_LENGTH: RowConfig(8192, 8, 8192)},
        4: {1024: RowConfig(1024, 4), ANY_LENGTH: RowConfig(2048, 4, 4096)},
    },
}
"""Kernel -> bytes of a logit -> longest row that a configuration is for, in rising order."""

PROGRAMS_PER_PROCESSOR = 16
"""Rows are split until so many programs wait for every streaming multiprocessor, which runs four or more at a time: the
last ones to finish leave little of it idle."""


def row_config(kernel: str, dtype: torch.dtype, columns: int) -> RowConfig:
    configs = ROW_CONFIGS[kernel][dtype.itemsize]
    return next(config for longest, config in configs.items() if columns <= longest)


def splits(rows: int, columns: int, config: RowConfig, device: torch.device) -> int:
    """Programs to share a row: more than one only when rows alone do not fill the device, or are longer than a span."""
    wanted = -(-PROGRAMS_PER_PROCESSOR * _processors(device) // max(rows, 1))
    most = max(1, columns // (2 * config.block))
    return max(-(-columns // config.span), min(wanted, most))


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
