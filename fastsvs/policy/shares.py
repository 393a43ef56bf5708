"""Each rank's share of the weights beside those that the policy began with: every value of the model on one rank.

A rank reads what it needs of the first weights as loading does, a cut at a time, and keeps none of it. Several threads
read ahead, as one copies no more than 2 or 3 GB/s of a mapped file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import torch
from megatron.core import parallel_state as mpu
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.policy.degrees import copies, here, holds, part
from fastsvs.policy.learned import megatron_shapes
from fastsvs.policy.mapping import Entry, cut_ranges, entries, hf_shapes, split
from fastsvs.policy.weights import WeightSource

READERS = 4
"""Number of threads that read ahead, one cut each."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a Hugging Face tensor that is on this rank, without padding, and where it lies."""

    name: str
    values: Tensor
    dimension: int | None
    """Dimension that it is cut along; None for a whole tensor."""
    start: int
    end: int


def compared_weights(
    tensors: Mapping[str, Tensor], architecture: Architecture, source: WeightSource
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield (name, first, now) of each cut of this rank's share, both on its device and in the policy's dtype.

    `tensors` is what this rank's stage holds under its parameter names, and `source` has the first weights.
    """
    with ThreadPoolExecutor(READERS) as readers:
        ahead: deque[tuple[Cut, Future[Tensor]]] = deque()
        for cut in own_cuts(tensors, architecture):
            found = source.read(cut.name, cut.dimension, cut.start, cut.end)
            ahead.append((cut, readers.submit(fetch, found, cut.values)))
            if len(ahead) > READERS:
                yield _arrived(*ahead.popleft())
        while ahead:
            yield _arrived(*ahead.popleft())


def own_cuts(tensors: Mapping[str, Tensor], architecture: Architecture) -> Iterator[Cut]:
    """Yield this rank's share: of the parameters that it has, those that fall to it among the ranks with the same
    parts of them."""
    layout, shapes = here(), hf_shapes(architecture)
    for entry in _share(architecture):
        parts = split(entry, tensors[entry.name].detach(), architecture)
        for name, values in zip(entry.sources, parts, strict=True):
            if entry.cut is None:
                yield Cut(name, values, None, 0, 0)
            else:
                size, first = shapes[name][entry.cut], 0
                place = layout.parts(entry), part(entry)
                for bounds in cut_ranges(architecture, entry, name, shapes[name], *place):
                    start, end = (min(bound, size) for bound in bounds)
                    yield Cut(name, values.narrow(entry.cut, first, end - start), entry.cut, start, end)
                    first += end - start


def _share(architecture: Architecture) -> Iterator[Entry]:
    """Yield the entries of this rank's share. Experts have other copies than the rest, and are dealt by themselves."""
    layout, stage = here(), mpu.get_pipeline_model_parallel_rank()
    shapes = megatron_shapes(architecture, layout, stage, mpu.get_expert_model_parallel_rank())
    present = [
        entry
        for entry in entries(architecture, layout)
        if holds(entry) and not entry.copy and (entry.cut is not None or part(entry) == 0)
    ]
    for expert in (False, True):
        alike = [entry for entry in present if (entry.expert_rank is not None) == expert]
        if alike:
            count, own = copies(alike[0])
            shares = even_shares([prod(shapes[entry.name]) for entry in alike], count)
            yield from (alike[i] for i in shares[own])


def even_shares(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Return the indices of `sizes` in `count` shares of about the same sum: the largest go first, each to the smallest
    share."""
    shares: list[list[int]] = [[] for _ in range(count)]
    sums = [0] * count
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        smallest = sums.index(min(sums))
        shares[smallest].append(index)
        sums[smallest] += sizes[index]
    return [sorted(share) for share in shares]


def fetch(found: Tensor, like: Tensor) -> Tensor:
    """Copy what the source has into memory that the device can take it from."""
    return torch.empty(found.shape, dtype=like.dtype, pin_memory=like.is_cuda).copy_(found)


def _arrived(cut: Cut, fetched: Future[Tensor]) -> tuple[str, Tensor, Tensor]:
    return cut.name, fetched.result().to(cut.values.device, non_blocking=True), cut.values
