"""State that the layers keep of the sequences in flight: one slot per sequence, and the slots in use side by side from
slot 0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.families import DeltaNet

BLOCK = 16
"""Unit of slots and lengths, which gives few different GEMM shapes and full vectors."""


def blocks(count: int, size: int = BLOCK) -> int:
    """Round `count` up to whole blocks."""
    return -(-count // size) * size


class KVCache:
    """Keys and values of the layers with attention. The cache grows on demand. On a CPU it holds fp32 whatever the
    model's dtype: attention is then exact and needs one code path."""

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
        heads = (shape.attention_layers, slots, shape.groups)
        self.keys = torch.zeros(*heads, shape.head_dim, length, dtype=self._dtype, device=self._device)
        """Keys [attention_layers, slots, kv_heads, head_dim, length]: with this layout the GEMM of one query row is
        fastest."""
        self.values = torch.zeros(*heads, length, shape.head_dim, dtype=self._dtype, device=self._device)
        """Values [attention_layers, slots, kv_heads, length, head_dim]."""


class DeltaStates:
    """States that the gated delta nets keep of each sequence, whatever its length. They grow on demand."""

    def __init__(self, net: DeltaNet, layers: int, dtype: torch.dtype, device: torch.device) -> None:
        self.net = net
        self.memories = torch.zeros(layers, 0, net.value_heads, net.key_dim, net.value_dim, device=device)
        """Recurrent states [delta_layers, slots, value_heads, key_dim, value_dim] fp32."""
        self.windows = torch.zeros(layers, 0, net.kernel - 1, net.channels, dtype=dtype, device=device)
        """Last inputs of the convolutions, [delta_layers, slots, kernel - 1, channels]."""

    def reserve(self, slots: int) -> None:
        """Make room for `slots` sequences; what is stored stays."""
        missing = blocks(slots) - self.memories.shape[1]
        if missing > 0:
            self.memories = F.pad(self.memories, (0, 0, 0, 0, 0, 0, 0, missing))
            self.windows = F.pad(self.windows, (0, 0, 0, 0, 0, missing))

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots `sources` to slots `targets`, both [moved] int64."""
        self.memories[:, targets] = self.memories[:, sources]
        self.windows[:, targets] = self.windows[:, sources]


class Cache:
    """Everything that the layers of a model keep of the sequences in flight."""

    def __init__(
        self, shape: Architecture, dtype: torch.dtype, device: torch.device, length_multiple: int = BLOCK
    ) -> None:
        """Hold lengths in multiples of `length_multiple` tokens."""
        self.kv = KVCache(shape, dtype, device, length_multiple)
        net = shape.delta_net
        self.states = DeltaStates(net, sum(shape.linear_layers), dtype, device) if net else None

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` sequences of `length` tokens; what is stored stays."""
        self.kv.reserve(slots, length)
        if self.states:
            self.states.reserve(slots)

    def move(self, sources: Tensor, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slots `sources` to slots `targets`, both [moved] int64."""
        self.kv.move(sources, targets, length)
        if self.states:
            self.states.move(sources, targets)
