"""Host memory for what lies on a device: tensors are copied to it one after another, and back.

It is page-locked where there is CUDA, so that copies run at the speed of the bus, beside other work. It is kept from
use to use, because locking pages takes longer than copying them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

SEGMENT_BYTES = 256 << 20
"""Bytes of a segment. CUDA's allocator takes powers of two, so that one block of everything could waste half of it."""


class HostMemory:
    """Memory on the host for a list of tensors; it grows to what is stored."""

    def __init__(self) -> None:
        self._segments: list[Tensor] = []
        self._used = 0

    @property
    def nbytes(self) -> int:
        """Return the size of the memory in bytes, used or not."""
        return sum(segment.numel() for segment in self._segments)

    def store(self, tensors: Sequence[Tensor]) -> None:
        """Copy contiguous tensors here, in place of what was stored before. They may be changed when this returns."""
        self._reserve(sum(tensor.nbytes for tensor in tensors))
        for place, values in self._places(tensors):
            place.copy_(values, non_blocking=True)
        _wait()

    def restore(self, tensors: Sequence[Tensor]) -> None:
        """Copy what was stored back into tensors of the same sizes in the same order."""
        for place, values in self._places(tensors):
            values.copy_(place, non_blocking=True)
        _wait()

    def parts(self, start: int, nbytes: int) -> list[Tensor]:
        """Return the bytes [start, start + nbytes) of what is stored, in consecutive parts [bytes] uint8."""
        found = []
        while nbytes:
            segment, first = divmod(start, SEGMENT_BYTES)
            count = min(nbytes, SEGMENT_BYTES - first)
            found.append(self._segments[segment][first : first + count])
            start, nbytes = start + count, nbytes - count
        return found

    def bytes(self) -> Iterator[memoryview]:
        """Yield the memory of what is stored."""
        for start, segment in zip(range(0, self._used, SEGMENT_BYTES), self._segments, strict=False):
            yield segment[: self._used - start].numpy().data

    def _reserve(self, nbytes: int) -> None:
        self._used = nbytes
        if nbytes > self.nbytes:
            self._segments.clear()
            pinned = torch.cuda.is_available()
            self._segments = [
                torch.empty(min(SEGMENT_BYTES, nbytes - start), dtype=torch.uint8, pin_memory=pinned)
                for start in range(0, nbytes, SEGMENT_BYTES)
            ]

    def _places(self, tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pairs of equal parts of the memory and of the tensors, both [bytes] uint8."""
        position = 0
        for tensor in tensors:
            values = tensor.detach().view(-1).view(torch.uint8)
            places = self.parts(position, tensor.nbytes)
            yield from zip(places, values.split([place.numel() for place in places]), strict=True)
            position += tensor.nbytes


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
