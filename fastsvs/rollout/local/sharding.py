"""Which rank decodes which samples: every rank works this out alone and comes to the same result."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

Share = tuple[int, int, range]
"""(rank, request, its samples)"""


def deal(samples: Sequence[int], loads: Sequence[int]) -> list[Share]:
    """Shares of requests with `samples[i]` samples each, so that the ranks' `loads` (samples in flight) come out even.

    Neighbouring samples stay together: the prompt of a request is read on few ranks.
    """
    total = sum(samples)
    level = bisect_left(range(max(loads) + total), total, key=lambda level: sum(_room(loads, level)))
    room = _room(loads, level)
    shares: list[Share] = []
    rank = 0
    for request, count in enumerate(samples):
        start = 0
        while start < count:
            while not room[rank]:
                rank += 1
            end = min(count, start + room[rank])
            shares.append((rank, request, range(start, end)))
            room[rank] -= end - start
            start = end
    return shares


def _room(loads: Sequence[int], level: int) -> list[int]:
    return [max(0, level - load) for load in loads]
