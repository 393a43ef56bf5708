"""Keys and values of the sequences in flight: one slot a sequence, all slots in use side by side from slot 0."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsvs.architecture import Architecture

BLOCK = 16
"""Slots and lengths come in multiples of it: few different GEMM shapes, full vectors."""


def blocks(count: int) -> int:
    """`count` rounded up to whole blocks."""
    return -(-count // BLOCK) * BLOCK


class KVCache:
    """Grows on demand. On a CPU it holds fp32 whatever the model's dtype: attention is then exact and one code path."""

    def __init__(self, shape: Architecture, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = shape
        self._dtype = torch.float32 if device.type == "cpu" else dtype
        self._device = device
        self._allocate(0, 0)

    def reserve(self, slots: int, length: int) -> None:
        """Room for `slots` sequences of `length` tokens; what is stored stays."""
        _, old_slots, _, old_length, _ = self.values.shape
        if slots <= old_slots and length <= old_length:
            return
        keys, values = self.keys, self.values
        self._allocate(max(blocks(slots), old_slots), max(blocks(length), old_length))
        self.keys[:, :old_slots, ..., :old_length] = keys
        self.values[:, :old_slots, :, :old_length] = values

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Slots `sources` to slots `targets`, both [moved] int64, their first `length` tokens."""
        self.keys[:, targets, ..., :length] = self.keys[:, sources, ..., :length]
        self.values[:, targets, :, :length] = self.values[:, sources, :, :length]

    def _allocate(self, slots: int, length: int) -> None:
        # Zeros, not empty: what lies beyond a sequence's end is multiplied by an attention weight of 0.
        shape = self._shape
        heads = (shape.layers, slots, shape.groups)
        self.keys = torch.zeros(*heads, shape.head_dim, length, dtype=self._dtype, device=self._device)
        """[layers, slots, kv_heads, head_dim, length]: the GEMM of one query row is fastest with keys so."""
        self.values = torch.zeros(*heads, length, shape.head_dim, dtype=self._dtype, device=self._device)
        """[layers, slots, kv_heads, length, head_dim]"""
