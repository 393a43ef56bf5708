"""How much memory this process has needed at most."""

from __future__ import annotations

import resource
import sys

import torch

GIB = 1024**3


def memory() -> dict[str, float]:
    """`system/...` in GiB, since the start of the process."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"system/peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB}
    if torch.cuda.is_available():
        peak["system/peak_gpu_memory"] = torch.cuda.max_memory_allocated() / GIB
    return peak
