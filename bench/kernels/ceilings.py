"""Limits of this device, measured in the same process: copy bandwidth and matrix products of the case's own shape."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from bench.kernels.suites import Case, Mode, Shape
from bench.report import Row

PIECE, GROUP = 2048, 8192
"""Number of tokens whose logits are made in one product, and number whose gradients enter one: the default
workspace's."""


class Ceilings:
    """The measured rates of the device. Each is measured when a case first needs it. Without a GPU there is none."""

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu
        self.bandwidth: float | None = None
        """Rate of bytes read plus written, in bytes per second."""
        self.products: dict[str, float] = {}
        """Rate of the fastest product by shape, in FLOP/s."""

    def measure(self, case: Case) -> list[Row]:
        """Measure and print the rates that were not known, and return their rows."""
        rows: list[Row] = []
        if self.gpu and self.bandwidth is None:
            self.bandwidth = copy_rate()
            rows.append(Row("ceilings", "torch", "copy", self.bandwidth / 1e12, "TB/s"))
        if self.gpu and case.operator != "logprob_entropy" and case.shape.name not in self.products:
            rates = product_rates(case.shape)
            self.products[case.shape.name] = max(rates.values())
            rows += (Row(f"product/{case.shape.name}", "cuBLAS", k, v / 1e12, "TFLOP/s") for k, v in rates.items())
        for row in rows:
            print(f"{row.case}: {row.metric} {row.value:.4g} {row.unit}")
        return rows

    def floor(self, case: Case, mode: Mode, itemsize: int) -> float | None:
        """Return the least time that the case's products, or its logits of `itemsize` bytes each, take, in
        milliseconds."""
        if case.operator == "logprob_entropy":
            return self.of_bytes(case.nbytes(mode, itemsize))
        return self.of_flop(case.shape, case.flop(mode))

    def of_bytes(self, nbytes: float) -> float | None:
        return nbytes / self.bandwidth * 1e3 if self.bandwidth else None

    def of_flop(self, shape: Shape, flop: float) -> float | None:
        return flop / self.products[shape.name] * 1e3 if shape.name in self.products else None


def copy_rate(nbytes: int = 4 << 30, rounds: int = 10) -> float:
    """Return the rate of a copy from device to device, in bytes read plus written per second."""
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * nbytes / _seconds(lambda: target.copy_(source), rounds)


def product_rates(shape: Shape, rounds: int = 7) -> dict[str, float]:
    """Return the FLOP/s of the policy loss's products as cuBLAS does them, one at a time, on random numbers.

    The products that a loss from bf16 logits has in their place are among them.
    """

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, device="cuda", dtype=torch.bfloat16)

    x, w = normal(GROUP, shape.hidden), normal(shape.vocabulary, shape.hidden)
    wide = torch.empty(PIECE, shape.vocabulary, device="cuda", dtype=torch.float32)
    narrow = normal(GROUP, shape.vocabulary)
    x_grad, w_grad = torch.empty_like(x), torch.empty_like(w)
    total = torch.zeros_like(w, dtype=torch.float32)
    fp32 = {"out_dtype": torch.float32}
    products: dict[str, tuple[int, Callable[[], object]]] = {
        "dX": (GROUP, lambda: torch.mm(narrow, w, out=x_grad)),
        "dW, bf16 out": (GROUP, lambda: torch.mm(narrow.t(), x, out=w_grad)),
        "dW added in fp32": (GROUP, lambda: torch.addmm(total, narrow.t(), x, out=total, **fp32)),
        "logits, fp32 out": (PIECE, lambda: torch.mm(x[:PIECE], w.t(), out=wide, **fp32)),
        "logits, bf16 out": (GROUP, lambda: torch.mm(x, w.t(), out=narrow)),
    }
    flop = 2.0 * shape.hidden * shape.vocabulary
    return {name: tokens * flop / _seconds(product, rounds) for name, (tokens, product) in products.items()}


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
