"""Launch configurations of the Triton kernels by kernel, element size and row length: looked up, never tuned in place.

They were chosen among what bench.kernels.tune measured on an H200, where nothing spills on sm_90a, sm_80 and sm_100
(see bench/codegen). They are the same on all of these, as long as no measurement tells them apart. What is both read
and written goes faster in short spans: the programs that run at the same time are neighbours, and then work on a narrow
window of memory.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

ANY_LENGTH = 1 << 31


class RowConfig(NamedTuple):
    """The launch configuration of a row kernel."""

    block: int
    """Number of columns of a row that are taken at once."""
    warps: int
    """Number of warps of 32 threads of a program."""
    span: int = ANY_LENGTH
    """Largest number of columns of a row that one program takes."""

    @property
    def threads(self) -> int:
        """Return the number of threads of a program, which is the same on every GPU."""
        return 32 * self.warps


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
"""Configurations: kernel -> bytes of a logit -> longest row that a configuration is for, in rising order."""

PROGRAMS_PER_PROCESSOR = 16
"""Number of programs that wait for every streaming multiprocessor when rows are split. A multiprocessor runs four or
more at a time, so the last ones to finish leave little of it idle."""


def row_cut(kernel: str, logits: Tensor) -> tuple[RowConfig, int, int]:
    """Return this kernel's configuration for `logits` [rows, columns], the number of parts that a row is cut into, and
    the number of columns of each part but the last."""
    rows, columns = logits.shape
    config = row_config(kernel, logits.dtype, columns)
    return config, *shares(columns, config, splits(rows, columns, config, logits.device))


def row_config(kernel: str, dtype: torch.dtype, columns: int) -> RowConfig:
    """Return the configuration of this kernel for rows of `columns` logits of this dtype."""
    configs = ROW_CONFIGS[kernel][dtype.itemsize]
    return next(config for longest, config in configs.items() if columns <= longest)


def splits(rows: int, columns: int, config: RowConfig, device: torch.device) -> int:
    """Return the number of programs that share a row. It is more than one only when rows alone do not fill the device,
    or are longer than a span."""
    wanted = -(-PROGRAMS_PER_PROCESSOR * _processors(device) // max(rows, 1))
    most = max(1, columns // (2 * config.block))
    return max(-(-columns // config.span), min(wanted, most))


def shares(columns: int, config: RowConfig, programs: int) -> tuple[int, int]:
    """Return the number of parts of a row, at most `programs`, and the columns of each: whole blocks but the last."""
    blocks = -(-columns // (programs * config.block))
    span = blocks * config.block
    return -(-columns // span), span


def warps(threads: int, device: torch.device) -> int:
    """Return the number of warps of a program of `threads` threads: a warp has 32 of them, or 64 on some of AMD's."""
    return threads // _warp_size(device)


@cache
def _warp_size(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).warp_size if device.type == "cuda" else 32


@cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
