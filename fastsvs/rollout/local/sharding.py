"""Distribution of samples over ranks: every rank computes it alone and comes to the same result."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

Share = tuple[int, int, range]
"""Samples of one request for one rank: (rank, index of the request, sample numbers)."""


def deal(samples: Sequence[int], loads: Sequence[int]) -> list[Share]:
    """Deal requests of `samples[i]` samples each to the ranks, so that the ranks' `loads` (samples in flight) come out
    even.

    Neighbouring samples stay together, so that few ranks read the prompt of a request.
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
