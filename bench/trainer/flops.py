"""Useful floating-point work of one update, and the devices' peaks that MFU is a share of."""

from __future__ import annotations

import torch

from bench.trainer.suites import Case
from fastsvs.architecture import Architecture

FORMULA = (
    "FLOP of an update = 6 x tokens x (weights of attention and feed-forward matrices) "
    "+ 6 x response tokens x hidden x vocabulary + 6 x layers x heads x head_dim x sum of length^2; "
    "attention counted causally (half the square), recomputation not counted. MFU = FLOP / seconds / peak."
)

# Dense bf16, by NVIDIA's data sheets for the SXM parts; prime-rl's MFU uses the same 989 TFLOP/s.
PEAK_BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12}


def case_flop(case: Case, architecture: Architecture) -> float:
    """Return the FLOP of forward and backward of the case's row.

    For Qwen3-0.6B and one sequence it equals prime-rl's number: that counts attention as 12 x layers x hidden x
    length^2, and hidden there is half of heads x head_dim.
    """
    forward = sum(architecture.forward_flops(length, length - case.prompt_tokens) for length in case.lengths())
    return 3.0 * forward


def peak_flop_per_second(device_name: str) -> float | None:
    """Return the peak in FLOP/s, or None for a device whose peak is not listed here."""
    return next((peak for key, peak in PEAK_BF16.items() if key in device_name and "PCIe" not in device_name), None)


def measured_matmul_rate(size: int = 8192, repeats: int = 10) -> float:
    """Return the FLOP/s of a square bf16 product of random numbers on the current GPU, as clocks and power allow
    today."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2 * size**3 * repeats / (start.elapsed_time(end) / 1000)
