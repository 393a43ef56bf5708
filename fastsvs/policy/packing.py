"""Plans which samples share a packed row: micro-batches under a token budget, with equal work on data-parallel ranks.

Samples of one kind have correlated lengths and gradients, so each micro-batch gets its even share of every kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from heapq import heappop, heapreplace
from math import ceil

from fastsvs.errors import UserError

Rows = list[list[int]]
"""Samples of each packed row."""


def plan(
    lengths: Sequence[int],
    kinds: Sequence[str],
    work: Sequence[float],
    tokens_per_micro_batch: int,
    data_parallel: int,
) -> list[Rows]:
    """Return the samples of each micro-batch of each data-parallel rank: `[data_parallel][micro_batch][sample]`.

    `lengths` [samples] are the tokens of each whole sequence, `kinds` [samples] its experience kind, and `work`
    [samples] what its passes cost, in any unit. Every sample is in exactly one micro-batch, in ascending order. No
    micro-batch has more than `tokens_per_micro_batch` tokens. All ranks have the same number of micro-batches, at least
    one and about as few as this way of dealing allows, and about the same work; each rank's most costly micro-batch
    comes first, so that memory which does not suffice shows at once. The numbers of samples of one kind in any two
    micro-batches differ by at most one. The result depends on the arguments alone, and its time is about proportional
    to the number of samples.

    With fewer samples than micro-batches some are empty: a rank runs an empty one without loss or gradient, but still
    takes part in every collective.

    Raises UserError for a sequence longer than the budget.
    """
    check_lengths(lengths, tokens_per_micro_batch)
    longest_first = _longest_first(lengths)

    def deal(micro_batches: int) -> Rows | None:
        return _deal(longest_first, lengths, kinds, micro_batches * data_parallel, tokens_per_micro_batch)

    fewest = max(1, ceil(sum(lengths) / (tokens_per_micro_batch * data_parallel)))
    one_sample_each = max(fewest, ceil(len(lengths) / data_parallel))
    return _spread(_fewest(deal, fewest, one_sample_each), work, data_parallel)


def divide(lengths: Sequence[int], budget: int, least: int) -> Rows:
    """Return about the fewest rows within the budget, but at least `least`, with numbers of samples that differ by at
    most one. `lengths` [samples] are at most the budget, and at least `least` in number."""
    longest_first, kinds = _longest_first(lengths), [""] * len(lengths)

    def deal(rows: int) -> Rows | None:
        return _deal(longest_first, lengths, kinds, rows, budget)

    return _fewest(deal, max(least, ceil(sum(lengths) / budget)), len(lengths))


def check_lengths(lengths: Sequence[int], tokens_per_micro_batch: int) -> None:
    """Raise UserError for a sequence longer than the budget."""
    longest = max(lengths, default=0)
    if longest > tokens_per_micro_batch:
        over = sum(length > tokens_per_micro_batch for length in lengths)
        raise UserError(
            f"{over} of {len(lengths)} sequences are longer than policy.tokens_per_micro_batch "
            f"({tokens_per_micro_batch}), the longest has {longest} tokens: raise it to {longest} or more, "
            "or lower the prompt and response limits"
        )


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))


def _fewest(deal: Callable[[int], Rows | None], low: int, high: int) -> Rows:
    """Return the rows of about the smallest number in [low, high] that suits `deal`, which `high` does.

    The numbers are tried at growing distances from `low`, and then by halves between the last that failed and the first
    that did not. A smaller one may suit where luck decides.
    """
    failed, number, stride = low - 1, low, max(1, low // 64)
    while (found := deal(number)) is None:
        failed, number, stride = number, min(high, number + stride), 2 * stride
    while number - failed > 1:
        middle = (failed + number) // 2
        if (fewer := deal(middle)) is None:
            failed = middle
        else:
            number, found = middle, fewer
    return found


def _deal(samples: Sequence[int], lengths: Sequence[int], kinds: Sequence[str], count: int, budget: int) -> Rows | None:
    """Deal the samples in turn, each into the least filled of `count` rows that may still take one of its kind. Returns
    None when a row comes to more tokens than the budget.

    A row's key is `tokens * count + row`, so that keys are in order of the tokens, then of the row. Each kind has a
    heap of the keys of the rows that may take more of it. A key there is behind the times when another kind has added
    to its row; as rows only fill up, it is found and corrected once it comes to the top.
    """
    rows: Rows = [[] for _ in range(count)]
    keys = list(range(count))
    share = {kind: divmod(number, count) for kind, number in Counter(kinds).items()}
    open_rows = {kind: list(keys) for kind in share}
    held = {kind: [0] * count for kind in share}
    with_one_more = {kind: rest for kind, (_, rest) in share.items()}
    for sample in samples:
        kind = kinds[sample]
        heap, number, even = open_rows[kind], held[kind], share[kind][0]
        most = even + (with_one_more[kind] > 0)
        while True:
            key = heap[0]
            row = key % count
            if number[row] >= most:
                heappop(heap)  # for good: `most` only falls
            elif key != keys[row]:
                heapreplace(heap, keys[row])
            else:
                break
        key += lengths[sample] * count
        if key // count > budget:
            return None
        with_one_more[kind] -= number[row] == even
        number[row] += 1
        rows[row].append(sample)
        keys[row] = key
        heapreplace(heap, key)
    return [sorted(row) for row in rows]


def _spread(rows: Rows, work: Sequence[float], ranks: int) -> list[Rows]:
    """Deal the rows, the most costly first, one to each rank in turn, where the rank with the least work chooses first.

    The ranks' work then differs by no more than the costs of the rows of one turn.
    """
    costs = [sum(work[sample] for sample in row) for row in rows]
    costly_first = sorted(range(len(rows)), key=lambda i: (-costs[i], i))
    shares: list[Rows] = [[] for _ in range(ranks)]
    totals = [0.0] * ranks
    for start in range(0, len(rows), ranks):
        idle_first = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for rank, row in zip(idle_first, costly_first[start : start + ranks], strict=True):
            shares[rank].append(rows[row])
            totals[rank] += costs[row]
    return shares
