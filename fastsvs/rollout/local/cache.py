"""Keys and values of the sequences in flight: one slot per sequence, and the slots in use side by side from slot 0."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.architecture import Architecture

BLOCK = 16
"""Unit of slots and lengths, which gives few different GEMM shapes and full vectors."""


def blocks(count: int, size: int = BLOCK) -> int:
    """Round `count` up to whole blocks."""
    return -(-count // size) * size


class KVCache:
    """Cache that grows on demand. On a CPU it holds fp32 whatever the model's dtype: attention is then exact and needs
    one code path."""

    def __init__(
        self, shape: Architecture, dtype: torch.dtype, device: torch.device, length_multiple: int = BLOCK
    ) -> None:
        """Hold lengths in multiples of `length_multiple` tokens."""
        self._multiple = length_multiple
        self._shape = shape
        self._dtype = torch.float32 if device.type == "cpu" else dtype
        self._device = device
        self._allocate(0, 0)

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` sequences of `length` tokens; what is stored stays."""
        _, old_slots, _, old_length, _ = self.values.shape
        if slots <= old_slots and length <= old_length:
            return
        keys, values = self.keys, self.values
        self._allocate(max(blocks(slots), old_slots), max(blocks(length, self._multiple), old_length))
        self.keys[:, :old_slots, ..., :old_length] = keys
        self.values[:, :old_slots, :, :old_length] = values

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slots `sources` to slots `targets`, both [moved] int64."""
        self.keys[:, targets, ..., :length] = self.keys[:, sources, ..., :length]
        self.values[:, targets, :, :length] = self.values[:, sources, :, :length]

    def _allocate(self, slots: int, length: int) -> None:
        # Zeros, not empty: what lies beyond a sequence's end is multiplied by an attention weight of 0.
        shape = self._shape
        heads = (shape.layers, slots, shape.groups)
        self.keys = torch.zeros(*heads, shape.head_dim, length, dtype=self._dtype, device=self._device)
        """Keys [layers, slots, kv_heads, head_dim, length]: with this layout the GEMM of one query row is fastest."""
        self.values = torch.zeros(*heads, length, shape.head_dim, dtype=self._dtype, device=self._device)
        """Values [layers, slots, kv_heads, length, head_dim]."""
