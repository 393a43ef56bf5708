"""What FastSvS did before, to measure against: one row more until all fits, and whole tensors compared at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import ceil

import numpy as np
from torch import Tensor


def plan_by_one_row_more(
    lengths: Sequence[int], kinds: Sequence[str], budget: int, data_parallel: int
) -> list[list[list[int]]]:
    """Return the samples of each row of each rank: rows are as even in tokens, and the ranks take them in turn."""
    rows = max(1, ceil(sum(lengths) / (budget * data_parallel)))
    while True:
        dealt = _deal(lengths, kinds, rows * data_parallel)
        if all(sum(lengths[i] for i in samples) <= budget for samples in dealt):
            return [dealt[rank::data_parallel] for rank in range(data_parallel)]
        rows += 1


def _deal(lengths: Sequence[int], kinds: Sequence[str], count: int) -> list[list[int]]:
    dealt: list[list[int]] = [[] for _ in range(count)]
    share = {kind: divmod(number, count) for kind, number in Counter(kinds).items()}
    filled = np.zeros(count, dtype=np.int64)
    held = {kind: np.zeros(count, dtype=np.int64) for kind in share}
    one_more = {kind: rest for kind, (_, rest) in share.items()}
    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        kind = kinds[sample]
        room = held[kind] < share[kind][0] + (one_more[kind] > 0)
        chosen = int(np.where(room, filled, np.iinfo(np.int64).max).argmin())
        one_more[kind] -= int(held[kind][chosen] == share[kind][0])
        dealt[chosen].append(sample)
        filled[chosen] += lengths[sample]
        held[kind][chosen] += 1
    return dealt


def compare_whole(old: Tensor, new: Tensor, tolerance: float) -> list[float]:
    """Return the numbers of equal values, of values equal in bf16 and within the tolerance, and the two squares."""
    difference = new.double() - old.double()
    return [
        int((old == new).sum()),
        int((old.bfloat16() == new.bfloat16()).sum()),
        int((difference.abs() <= tolerance).sum()),
        float(difference.square().sum()),
        float(old.double().square().sum()),
    ]
