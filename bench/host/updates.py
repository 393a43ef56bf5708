"""Values a second of the comparison that update figures make, and bytes a second of reading the first weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bench.host.before import compare_whole
from bench.host.packing import best
from bench.report import Row
from fastsvs.dynamics.updates import TOLERANCE, change_of
from fastsvs.policy.model import DTYPES
from fastsvs.policy.shares import READERS, fetch

RANK_BYTES = 32_763_876_352 / 16 * 2
"""Bytes that a rank of Qwen2.5-32B reads on TP 4 x PP 2 x DP 2."""


@dataclass(frozen=True, slots=True)
class Updates:
    values: int = 1 << 25
    """Number of values that are compared."""
    width: int = 5120
    """Rows and a quarter of the columns of the tensor that is read."""
    repeats: int = 3


UPDATES = Updates()


def measure_updates(case: Updates, folder: Path) -> Iterator[Row]:
    """Measure the comparison by dtype and share of changed values, and the reading by the dimension that is cut."""
    torch.manual_seed(0)
    for name, dtype in DTYPES.items():
        for changed in (0.1, 1.0):
            old = 0.02 * torch.randn(case.values)
            new = old + 1e-3 * torch.randn(case.values) * (torch.rand(case.values) < changed)
            old, new = old.to(dtype), new.to(dtype)
            about = f"compare weights, {name}, {changed:.0%} changed"
            for provider, run in {"before: whole tensors": compare_whole, "fastsvs": change_of}.items():
                seconds, _ = best(case.repeats, run, old, new, TOLERANCE)
                yield Row(about, provider, "values", case.values / seconds / 1e6, "M/s")
    for cut, shape in enumerate([(4 * case.width, case.width), (case.width, 4 * case.width)]):
        file = folder / f"{cut}.safetensors"
        save_file({"weight": torch.zeros(shape, dtype=torch.bfloat16)}, file)
        with safe_open(file, framework="pt") as opened:
            slices = opened.get_slice("weight")
            part = slices[case.width : 2 * case.width] if cut == 0 else slices[:, case.width : 2 * case.width]
            seconds, fetched = best(case.repeats, fetch, part, part)
        rate, about = fetched.nbytes / seconds, f"read first weights, cut along dimension {cut}"
        yield Row(about, "fastsvs", "bytes of a cached file, one thread", rate / 1e9, "GB/s")
        arithmetic = f"{RANK_BYTES / 1e9:.1f} GB of a rank at {READERS} threads of this rate, on as many cores"
        yield Row(about, "fastsvs", "32B, TP 4 x PP 2 x DP 2", RANK_BYTES / rate / READERS, "s", note=arithmetic)
