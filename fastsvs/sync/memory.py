"""Buffers for what is packed, sent and received."""

from __future__ import annotations

import torch
from torch import Tensor


class Pool:
    """Buffers that are used again and again, because on CPUs fresh memory costs more than the work that is done in
    it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffers: list[Tensor] = []

    def take(self, nbytes: int) -> Tensor:
        """Return a buffer [nbytes] uint8; nobody else holds a view of it."""
        if self.device.type != "cpu":  # torch's own allocator does it
            return torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        free = [buffer for buffer in self._buffers if _references(buffer) == 1]
        fitting = [buffer for buffer in free if len(buffer) >= nbytes]
        if not fitting:
            self._buffers = [buffer for buffer in self._buffers if not any(buffer is other for other in free[:1])]
            fitting = [torch.empty(nbytes, dtype=torch.uint8)]
            self._buffers += fitting
        return min(fitting, key=len)[:nbytes]


def _references(buffer: Tensor) -> int:
    """Count the tensors that lie in this one's memory, itself included."""
    storage = buffer.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata) - 1
