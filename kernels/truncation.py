"""Truncated sampling: log-probs under the top-k and top-p mask that the sampler had (vLLM's `processed_logprobs`).

After the temperature, top-k keeps the k largest logits, and top-p of these the fewest that hold a share p of their
probability. Entries of equal logits are kept together. What is left out gets a logit of -inf: statistics and gradients
then need nothing of their own. No row is sorted: the least logit that is kept is found by bisection over the bits of
floating point numbers, which works for a vocabulary on several ranks too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .rows_torch import locate
from .vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Truncation:
    """The mask of truncated sampling. The sampled token is always kept, should rounding put it below the limit."""

    top_k: int | None = None
    """Number of entries that are kept at least; None for all."""
    top_p: float | None = None
    """Share of the probability that is kept at least, in (0, 1]; None for all."""

    def __post_init__(self) -> None:
        """Raise ValueError for a number outside its range."""
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, or None, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], or None, got {self.top_p}")

    @property
    def keeps_all(self) -> bool:
        """Check whether nothing is left out."""
        return self.top_k is None and self.top_p in (None, 1)

    def limits(self, logits: Tensor, inverse: Tensor | None, part: Vocabulary) -> Tensor:
        """Return a limit for each row of `logits` [rows, owned]: entries above it are kept, [rows] in their dtype.

        The limit lies midway between the least logit that is kept and the largest that is not, so that logits which are
        computed again, and differ in the last digit, are kept alike.
        """
        keys = _ordered(logits)
        least = torch.full_like(keys[:, 0] if part.owned else logits[:, :0].sum(1).to(keys.dtype), _bottom(keys))
        if self.top_k is not None and self.top_k < part.size:
            wanted = torch.full(least.shape, float(self.top_k), dtype=torch.float64, device=logits.device)
            least = _largest(keys, lambda key: _sum(keys >= key[:, None], part), wanted)
        if self.top_p is not None and self.top_p < 1:
            scaled = logits if inverse is None else logits * inverse[:, None]
            top = _reduced(_most(scaled), part, dist.ReduceOp.MAX)
            mass = (scaled - top[:, None]).exp_().masked_fill_(keys < least[:, None], 0.0)
            wanted = self.top_p * _sum(mass, part)
            least = _largest(keys, lambda key: _sum(mass.where(keys >= key[:, None], 0.0), part), wanted)
        dropped = logits.masked_fill(keys >= least[:, None], -torch.inf)
        below = _reduced(_most(dropped), part, dist.ReduceOp.MAX)
        kept = _reduced(-_most(-logits.masked_fill(keys < least[:, None], torch.inf)), part, dist.ReduceOp.MIN)
        down = torch.nextafter(kept, torch.full_like(kept, -torch.inf))
        return torch.where(below.isneginf(), below, torch.minimum(below + (kept - below) / 2, down))


def truncate(logits: Tensor, limits: Tensor, targets: Tensor, first: int) -> None:
    """Set entries of `logits` [rows, columns] at or below their row's limit to -inf in place, but for the targets'.
    Column 0 is the entry `first` of the vocabulary."""
    if not logits.shape[1]:
        return
    place, held = locate(targets, first, logits.shape[1])
    at_target = logits.gather(1, place[:, None])
    logits.masked_fill_(logits <= limits[:, None], -torch.inf)
    kept = torch.where(held[:, None], at_target, logits.gather(1, place[:, None]))
    logits.scatter_(1, place[:, None], kept)


def _largest(keys: Tensor, held: Callable[[Tensor], Tensor], wanted: Tensor) -> Tensor:
    """Return the largest key of each row above and at which there is as much as is `wanted`, by bisection."""
    bits = 8 * keys.element_size()
    low, high = (torch.full(wanted.shape, float("nan"), device=keys.device).to(keys.dtype) for _ in range(2))
    low, high = low.fill_(_bottom(keys)), high.fill_(torch.iinfo(keys.dtype).max)
    for _ in range(bits):
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)  # rounded up, without overflow
        enough = held(middle) >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle - 1).clamp(min=low)
    return low


def _ordered(values: Tensor) -> Tensor:
    """Return integers in the order of these floating point numbers."""
    bits = values.contiguous().view(torch.int64 if values.dtype == torch.float64 else torch.int32)
    return bits ^ ((bits >> (8 * bits.element_size() - 1)) & torch.iinfo(bits.dtype).max)


def _bottom(keys: Tensor) -> int:
    return torch.iinfo(keys.dtype).min


def _most(values: Tensor) -> Tensor:
    return values.amax(1) if values.shape[1] else values.new_full((len(values),), -torch.inf)


def _sum(values: Tensor, part: Vocabulary) -> Tensor:
    return _reduced(values.sum(1, dtype=torch.float64), part, dist.ReduceOp.SUM)


def _reduced(values: Tensor, part: Vocabulary, how: dist.ReduceOp.RedOpType) -> Tensor:
    if part.group is not None:
        dist.all_reduce(values, how, group=part.group)
    return values
