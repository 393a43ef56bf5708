"""Tensors whose memory is on the host for a while: the tensors and all views of them stay what they are.

The storage under a tensor is copied to host memory and shrunk to nothing. When it gets its size and content back, every
tensor on it is valid again. In the meantime nothing may read or write them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastsvs.policy.host_memory import HostMemory


@dataclass(slots=True)
class _Group:
    """Storages that leave together, and their place in host memory."""

    memory: HostMemory = field(default_factory=HostMemory)
    storages: list[torch.UntypedStorage] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of each storage."""


class Away:
    """Groups of tensors that are on the host at present. Host memory is kept from one time to the next."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}

    def take(self, name: str, tensors: Iterable[Tensor]) -> int:
        """Move the memory of a group of tensors to the host, and return its bytes: 0 when it is there already."""
        group = self._groups.setdefault(name, _Group())
        if group.storages:
            return 0
        # A storage has many tensors and one address, which is that of its own head and not of its memory.
        found = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
        group.storages = [storage for storage in found.values() if storage.nbytes()]
        group.sizes = [storage.nbytes() for storage in group.storages]
        group.memory.store([_content(storage) for storage in group.storages])
        for storage in group.storages:
            storage.resize_(0)
        return sum(group.sizes)

    def give_back(self, name: str) -> int:
        """Move the memory of a group back to its device, and return its bytes: 0 when it is there already."""
        group = self._groups.get(name, _Group())
        for storage, size in zip(group.storages, group.sizes, strict=True):
            storage.resize_(size)
        group.memory.restore([_content(storage) for storage in group.storages])
        moved, group.storages, group.sizes = sum(group.sizes), [], []
        return moved

    def parts(self, tensor: Tensor) -> list[Tensor]:
        """Return the content of a contiguous tensor, wherever it is: itself, or consecutive parts of host memory
        [bytes] uint8."""
        for group in self._groups.values():
            start = 0
            for storage, size in zip(group.storages, group.sizes, strict=True):
                if storage._cdata == tensor.untyped_storage()._cdata:
                    first = start + int(tensor.storage_offset()) * tensor.element_size()
                    return group.memory.parts(first, tensor.nbytes)
                start += size
        return [tensor]


def _content(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
