"""A rank's share of the vocabulary: its part of the row statistics, and their merge over ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .dispatch import row_kernels
from .rows_torch import accumulation_dtype


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A rank's share of the vocabulary."""

    size: int
    """Number of entries of all ranks together; what the weight has beyond is padding."""
    first: int
    """First entry of this rank."""
    owned: int
    """Number of entries of this rank, from `first` on; 0 where it holds padding alone."""
    group: dist.ProcessGroup | None
    """Process group of the ranks that share the vocabulary; None for a single rank."""

    def statistics(self, logits: Tensor, targets: Tensor, inverse: Tensor | None) -> Tensor:
        """Return the statistics [4, rows] of this rank's logits [rows, owned] (see `rows_torch`)."""
        if self.owned == 0:
            empty = torch.zeros(4, len(logits), dtype=accumulation_dtype(logits), device=logits.device)
            empty[0] = -torch.inf
            return empty
        kernels = row_kernels(logits)
        parts = kernels.row_statistics(logits, targets, self.first, inverse)
        return parts[0] if len(parts) == 1 else kernels.merge_statistics(parts, targets)[0]

    def merge(self, mine: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the statistics [4, rows], log-probs [rows] and entropies [rows] of all ranks, from this rank's
        statistics [4, rows].

        One all-gather sends four numbers per row. They are merged in rank order, so every rank gets the same bits.
        """
        everyone = mine[None]
        if self.group is not None:
            everyone = mine.new_empty(self.group.size(), *mine.shape)
            dist.all_gather_into_tensor(everyone.view(-1, mine.shape[1]), mine.contiguous(), group=self.group)
        return row_kernels(mine).merge_statistics(everyone.contiguous(), targets)


def vocabulary(
    shard: int, size: int | None, group: dist.ProcessGroup | None, start: int | None = None
) -> tuple[int, int, str | None]:
    """Return the number of entries in all, the first of this rank, and the name of the group (None for one rank), when
    this rank has `shard` entries from `start` on, and there are `size` in all.

    Without `start` all ranks of `group` have `shard` entries; without `size` there is no padding. Raises ValueError
    when the ranks do not have so many, or `start` is given without `size`.
    """
    ranks, rank = (group.size(), group.rank()) if group is not None else (1, 0)
    name = group.group_name if group is not None and ranks > 1 else None
    if start is not None:
        if size is None or start < 0 or size < 1:
            raise ValueError(f"vocab_start needs a vocab_size, the entries of all ranks: got {start} and {size}")
        return size, start, name
    size = ranks * shard if size is None else size
    if not 0 < size <= ranks * shard:
        raise ValueError(f"vocab_size must lie in 1..{ranks * shard}, the rows of the whole weight, got {size}")
    return size, rank * shard, name


def share(shard: int, size: int, first: int, group: str | None) -> Vocabulary:
    """Return the share of a rank that has `shard` entries from `first` on, by the name of its process group."""
    found = None if group is None else dist.distributed_c10d._resolve_process_group(group)  # type: ignore[arg-type]
    return Vocabulary(size, first, min(max(size - first, 0), shard), found)
