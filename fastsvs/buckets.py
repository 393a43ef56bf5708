"""The form in which weights travel: named tensors in one fixed order, packed end to end into flat byte buffers.

Trainer and rollout workers cut the same list in the same way, so that only bytes go over the wire. Imports torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 20
PIECE_BYTES = 32 << 20
"""Size in bytes from which a tensor travels in an operation of its own, so that it can be sent from where it lies. For
smaller ones an operation costs more than a copy does."""
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor under its Hugging Face name, as it travels."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Bucket:
    """Neighbouring tensors that travel in one buffer."""

    tensors: tuple[TensorSpec, ...]

    @property
    def nbytes(self) -> int:
        return sum(spec.nbytes for spec in self.tensors)

    def views(self, buffer: Tensor) -> list[tuple[str, Tensor]]:
        """Return the named tensors that lie in `buffer` [nbytes] uint8."""
        parts = buffer.split([spec.nbytes for spec in self.tensors])
        return [
            (spec.name, part.view(spec.dtype).view(spec.shape)) for spec, part in zip(self.tensors, parts, strict=True)
        ]

    def pieces(self) -> list[Bucket]:
        """Return what travels in one operation each: large tensors alone, runs of small ones together."""
        runs: list[list[TensorSpec]] = []
        for spec in self.tensors:
            if runs and max(spec.nbytes, runs[-1][-1].nbytes) < PIECE_BYTES:
                runs[-1].append(spec)
            else:
                runs.append([spec])
        return [Bucket(tuple(run)) for run in runs]


def plan_buckets(specs: Iterable[TensorSpec], bucket_bytes: int) -> list[Bucket]:
    """Cut the specs after every tensor that makes a bucket larger than `bucket_bytes`. A bucket then exceeds it by at
    most one tensor, and no tensor is cut. This is the packed format of vLLM's own NCCL engine."""
    buckets: list[Bucket] = []
    pending: list[TensorSpec] = []
    size = 0
    for spec in specs:
        pending.append(spec)
        size += spec.nbytes
        if size > bucket_bytes:
            buckets.append(Bucket(tuple(pending)))
            pending, size = [], 0
    return [*buckets, Bucket(tuple(pending))] if pending else buckets


def describe(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Return the specs as JSON, under the names of vLLM's update routes."""
    return {
        "names": [spec.name for spec in specs],
        "dtype_names": [str(spec.dtype).removeprefix("torch.") for spec in specs],
        "shapes": [list(spec.shape) for spec in specs],
    }


def read_specs(names: Sequence[str], dtype_names: Sequence[str], shapes: Sequence[Sequence[int]]) -> list[TensorSpec]:
    """Read the specs that `describe` wrote. Raises ValueError for lists of unequal length and for what is no dtype."""
    dtypes = [getattr(torch, name, None) for name in dtype_names]
    if not len(names) == len(dtypes) == len(shapes):
        raise ValueError(f"{len(names)} names, {len(dtypes)} dtypes and {len(shapes)} shapes do not describe tensors")
    unknown = sorted({name for name, dtype in zip(dtype_names, dtypes, strict=True) if not is_dtype(dtype)})
    if unknown:
        raise ValueError(f"no dtypes of torch: {', '.join(unknown)}")
    return [TensorSpec(n, tuple(s), d) for n, d, s in zip(names, dtypes, shapes, strict=True)]  # type: ignore[arg-type]


def is_dtype(value: object) -> bool:
    return isinstance(value, torch.dtype)


def checksum(tensor: Tensor) -> int:
    """Sum the tensor's words, each times an odd number that depends on its place, modulo 2^64 and signed: a changed
    word and swapped words both change it."""
    words = tensor.detach().reshape(-1).view(WORDS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for start in range(0, len(words), CHUNK):
        part = words[start : start + CHUNK].to(torch.int64)
        total += (part * torch.arange(2 * start + 1, 2 * (start + len(part)) + 1, 2, device=part.device)).sum()
    return int(total)
