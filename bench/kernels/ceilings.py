"""What this device can do, measured in the same process: copy bandwidth and matrix products of the case's own shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

import torch

from bench.kernels.suites import Case
from bench.report import Row


def copy_rate(nbytes: int = 4 << 30, rounds: int = 10) -> float:
    """Bytes read plus written a second, device to device."""
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * nbytes / _seconds(lambda: target.copy_(source), rounds)


def product_rates(case: Case, rounds: int = 5) -> Iterator[Row]:
    """TFLOP/s of the products of the policy loss as cuBLAS does them, one at a time, on pieces of 4,096 tokens."""
    tokens, hidden, vocabulary = min(case.tokens, 4096), case.shape.hidden, case.shape.vocabulary
    x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    w = torch.randn(vocabulary, hidden, device="cuda", dtype=torch.bfloat16)
    wide = torch.empty(tokens, vocabulary, device="cuda", dtype=torch.float32)
    narrow = wide.view(torch.bfloat16)[:, :vocabulary]  # as the gradient lies in place of the logits
    narrow.normal_()
    packed = torch.randn(tokens, vocabulary, device="cuda", dtype=torch.bfloat16)
    total = torch.zeros(vocabulary, hidden, device="cuda", dtype=torch.float32)
    flop = 2.0 * tokens * hidden * vocabulary
    products: dict[str, Callable[[], object]] = {
        "logits, bf16 out": lambda: torch.mm(x, w.t(), out=packed),
        "dX from strided rows": lambda: torch.mm(narrow, w),
        "dX from packed rows": lambda: torch.mm(packed, w),
        "dW added in fp32, strided": lambda: torch.addmm(total, narrow.t(), x, out_dtype=torch.float32, out=total),
        "logits, fp32 out": lambda: torch.mm(x, w.t(), out_dtype=torch.float32, out=wide),
    }
    for name, product in products.items():
        yield Row(f"product/{case.shape.name}", "cuBLAS", name, flop / _seconds(product, rounds) / 1e12, "TFLOP/s")


def _seconds(work: Callable[[], object], rounds: int) -> float:
    for _ in range(2):
        work()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return median(times)
