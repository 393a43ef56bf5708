"""Measures the memory of this process, and gives free memory back to the system."""

from __future__ import annotations

import ctypes
import resource
import sys
from functools import cache

import torch

GIB = 1024**3


def peak_memory() -> dict[str, float]:
    """Return the peak memory of this process since its start in GiB, as `system/...`."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"system/peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}
    if torch.cuda.is_available():
        peak["system/peak_gpu_memory"] = torch.cuda.max_memory_allocated() / GIB
    return peak


def give_back() -> None:
    """Return free memory to the system, where the C library can. Tensors of ever new sizes leave holes between them,
    and a process that holds 1 GiB would otherwise come to hold several."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


@cache
def _libc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "malloc_trim") else None
