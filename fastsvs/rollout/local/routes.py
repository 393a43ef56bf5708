"""The experts that computed each token of the sequences in flight, for routers that are to choose them again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastsvs.architecture import Architecture


class RouteBook:
    """Numbers of experts, [slots, positions, layers, active] int16, of the layers that have some; rows of unused slots
    hold stale values."""

    def __init__(self, shape: Architecture, device: torch.device) -> None:
        assert shape.experts is not None
        layers = len(shape.expert_layers)
        self._book = torch.zeros(0, 0, layers, shape.experts.active, dtype=torch.int16, device=device)

    def reserve(self, slots: int, length: int) -> None:
        """Make room for `slots` sequences of `length` tokens; what is stored stays."""
        held, old = self._book, self._book.shape
        if slots > old[0] or length > old[1]:
            self._book = held.new_zeros(max(slots, old[0]), max(length, old[1]), *old[2:])
            self._book[: old[0], : old[1]] = held

    def begin(self, first: int, routes: Sequence[Tensor], owners: Tensor) -> None:
        """Store the experts of prompts: `routes` is [prompts * longest, active] of each layer, and slot `first + i`
        continues prompt `owners[i]`."""
        found = torch.stack(list(routes), dim=1).to(torch.int16)
        prompts = found.unflatten(0, (int(owners.max()) + 1, -1))
        self._book[first : first + len(owners), : prompts.shape[1]] = prompts[owners]

    def append(self, positions: Tensor, routes: Sequence[Tensor]) -> None:
        """Store the experts of the token at `positions[i]` of slot i: `routes` is [slots, active] of each layer."""
        slots = torch.arange(len(positions), device=positions.device)
        self._book[slots, positions] = torch.stack(list(routes), dim=1).to(torch.int16)

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy slots `sources` to slots `targets`, both [moved] int64."""
        self._book[targets] = self._book[sources]

    def read(self, slot: int, tokens: int) -> np.ndarray:
        """Return the experts of the first `tokens` tokens of a slot, [tokens, layers, active] int16."""
        return self._book[slot, :tokens].cpu().numpy().copy()
