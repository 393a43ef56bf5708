"""Shares of the kinds of work that the device does in a call, by its profiler: what is worth making faster."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "attention": r"flash|fmha|sdpa|scaled_dot_product|attention",
    "matrix products": r"gemm|gemv|nvjet|cutlass|cublas|splitk|matmul|linear|aten::(add)?mm",
    "optimizer": r"adam|lpnorm|multi_tensor",
    "head, products apart": r"row_statistics|merge_statistics|logits_gradient|token_loss|assert_rows|scale_kernel",
    "norm": r"rms_?norm",
    "SwiGLU": r"swiglu|silu",
    "rotary positions": r"rope|rotation",
    "collectives": r"nccl|c10d",
    "copies and fills": r"mem(cpy|set)|copy|cat(array|_)|fill|zero",
}
"""Patterns of kernel names by kind, without regard to case. A kernel is of the first kind that its name fits.

Only names tell kernels apart: the head's products count as matrix products.
"""
NAMED = 0.05
"""Least share of the time from which a kernel of no kind is named."""

Piece = tuple[str, float, float]
"""(name, start, end) of one piece of work, in microseconds."""


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Profile a call and return the share of its time on the device by kind of work, the largest first.

    `nothing` is the time in which the device waits. Empty where the profiler sees no device.
    """
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        work()
        if gpu:
            torch.cuda.synchronize()
    wanted = DeviceType.CUDA if gpu else DeviceType.CPU
    return share_out(
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        # The optimizer's steps are ranges around kernels, and a CPU's operators hold others.
        if event.device_type == wanted and not event.is_user_annotation and (gpu or not event.cpu_children)
    )


def share_out(pieces: Iterable[Piece]) -> dict[str, float]:
    """Return the share of the time from the first piece's start to the last one's end by kind, the largest first."""
    ordered = sorted(pieces, key=lambda piece: piece[1])
    if not ordered:
        return {}
    begun = busy_until = ordered[0][1]
    waiting = 0.0
    took: Counter[str] = Counter()
    for name, start, end in ordered:
        waiting += max(0.0, start - busy_until)
        busy_until = max(busy_until, end)
        took[kind(name) or name] += end - start  # type: ignore[assignment]
    whole = busy_until - begun
    found: Counter[str] = Counter({"nothing": waiting})  # type: ignore[dict-item]
    for name, microseconds in took.items():
        known = name in KINDS or microseconds >= NAMED * whole
        found[name if known else "other"] += microseconds
    return {name: microseconds / whole for name, microseconds in found.most_common()}


def kind(name: str) -> str | None:
    """Return the kind of the kernel or operator of this name, or None."""
    return next((known for known, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), None)
