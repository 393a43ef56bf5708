"""The formula of a merge of two models (iterative model merging, arXiv 2503.02103; DARE, arXiv 2311.03099)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastsvs.errors import UserError
from fastsvs.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class MergePlan:
    """A merge: theta = base + weight * keep(tuned - base)."""

    weight: float = 0.5
    """Weight of the difference: 0 gives the base, 1 the tuned model."""
    drop: float = 0.0
    """Share of the differences, chosen at random, that DARE sets to 0; the others grow by 1 / (1 - drop)."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UserError(f"the weight of a merge lies in [0, 1], got {self.weight}")
        if not 0 <= self.drop < 1:
            raise UserError(f"the share that a merge drops lies in [0, 1), got {self.drop}")

    def merge(self, name: str, base: Tensor, tuned: Tensor) -> Tensor:
        """Return the merged tensor in fp32. What is dropped depends on `seed` and the tensor's name alone."""
        change = tuned.float() - base.float()
        if self.drop:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "merge", name))
            kept = torch.rand(change.shape, generator=generator) >= self.drop
            change = change * kept / (1 - self.drop)
        return base.float() + self.weight * change
