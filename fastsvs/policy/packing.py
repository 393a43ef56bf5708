"""Plans which samples share a packed row: micro-batches under a token budget, balanced over data-parallel ranks.

Samples of one kind have correlated lengths and gradients, so each micro-batch gets its even share of every kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

import numpy as np

from fastsvs.errors import UserError


def plan(
    lengths: Sequence[int], kinds: Sequence[str], tokens_per_micro_batch: int, data_parallel: int
) -> list[list[list[int]]]:
    """Return the samples of each micro-batch of each data-parallel rank: `[data_parallel][micro_batch][sample]`.

    `lengths` [samples] are the tokens of each whole sequence, and `kinds` [samples] its experience kind. Every sample
    is in exactly one micro-batch, in ascending order. No micro-batch has more than `tokens_per_micro_batch` tokens. All
    ranks have the same number of micro-batches: at least one, and as few as this way of dealing allows. The numbers of
    samples of one kind in any two micro-batches differ by at most one. The result depends on the arguments alone.

    With fewer samples than micro-batches some are empty: a rank runs an empty one without loss or gradient, but still
    takes part in every collective.

    Raises UserError for a sequence longer than the budget.
    """
    longest = max(lengths, default=0)
    if longest > tokens_per_micro_batch:
        over = sum(length > tokens_per_micro_batch for length in lengths)
        raise UserError(
            f"{over} of {len(lengths)} sequences are longer than policy.tokens_per_micro_batch "
            f"({tokens_per_micro_batch}), the longest has {longest} tokens: raise it to {longest} or more, "
            "or lower the prompt and response limits"
        )
    micro_batches = max(1, ceil(sum(lengths) / (tokens_per_micro_batch * data_parallel)))
    while True:  # ends at one sample a micro-batch, at the latest
        bins = _deal(lengths, kinds, micro_batches * data_parallel)
        if all(sum(lengths[i] for i in samples) <= tokens_per_micro_batch for samples in bins):
            return [bins[rank::data_parallel] for rank in range(data_parallel)]
        micro_batches += 1


def _deal(lengths: Sequence[int], kinds: Sequence[str], count: int) -> list[list[int]]:
    """Deal the samples, longest first, each into the least filled bin that may still take one of its kind."""
    bins: list[list[int]] = [[] for _ in range(count)]
    filled = np.zeros(count, dtype=np.int64)
    held = {kind: np.zeros(count, dtype=np.int64) for kind in kinds}
    share = {kind: divmod(number, count) for kind, number in Counter(kinds).items()}
    bins_with_one_more = {kind: rest for kind, (_, rest) in share.items()}
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        kind = kinds[sample]
        even = share[kind][0]
        room = held[kind] < even + (bins_with_one_more[kind] > 0)
        chosen = int(np.where(room, filled, np.iinfo(np.int64).max).argmin())
        bins_with_one_more[kind] -= int(held[kind][chosen] == even)
        bins[chosen].append(sample)
        filled[chosen] += lengths[sample]
        held[kind][chosen] += 1
    return [sorted(samples) for samples in bins]
