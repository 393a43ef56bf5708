"""The linear layer x @ weight.T + bias.

oneDNN's fp32 GEMM uses the full vector width on every x86-64 CPU; torch's default, MKL, falls back to AVX2 on other
makers' CPUs and is then half as fast. oneDNN's rows also have the same bits for any number of rows from 8 upwards.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x @ weight.T + bias without gradient: [rows, in], [out, in], [out] -> [rows, out]."""
    if _ONEDNN and x.dtype is torch.float32 and x.device.type == "cpu":
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
