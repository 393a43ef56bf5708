"""Bundles: samples of one prompt that share a packed row, which holds their prompt once.

A group of samples is one bundle where it can be. It is cut where it must be: its bundles hold the prompt each, so more
of them cost more tokens, but only a bundle that fits the budget can be in a row, and few large ones may leave a
data-parallel rank with less work than the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np

from fastsvs.algorithms import Batch
from fastsvs.policy import packing
from fastsvs.policy.packing import Rows, check_lengths

CLOSE = 1.02
"""Busiest rank's work over an even share of all work, from which on groups are not cut further."""

WORTH = 1 / 16
"""Share of a group's tokens that a shared prompt must save: the attention of such a row may be slower than the one that
`policy.attention` chooses for others."""

Bundle = list[int]
"""Samples of one prompt, in ascending order."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """The lengths of a batch's samples, and which of them share their prompt."""

    prompts: np.ndarray
    """Length of each sample's prompt in tokens, [samples] int64."""
    responses: np.ndarray
    """Length of each sample's response in tokens, [samples] int64."""
    prompt_numbers: Sequence[int]
    """Number of each sample's prompt, [samples]; samples with the same number share it, it is that of their first."""

    @classmethod
    def of(cls, batch: Batch, *, share: bool) -> Sizes:
        """Measure a batch. With `share`, samples of one kind whose prompts are the same tokens share it, where that is
        worth it; without it, none do."""
        prompts = np.array([len(ids) for ids in batch.prompt_ids], dtype=np.int64)
        responses = np.array([len(ids) for ids in batch.response_ids], dtype=np.int64)
        numbers = list(range(len(batch)))
        groups: dict[tuple[str, bytes], Bundle] = {}
        for sample in numbers if share else ():
            groups.setdefault((batch.kinds[sample], batch.prompt_ids[sample].tobytes()), []).append(sample)
        for group in groups.values():
            saved = (len(group) - 1) * prompts[group[0]]
            if saved >= WORTH * (saved + prompts[group[0]] + responses[group].sum()):
                for sample in group:
                    numbers[sample] = group[0]
        return cls(prompts, responses, numbers)

    def bundles(self, samples: Iterable[int]) -> list[Bundle]:
        """Return the given samples by their prompts, in the order of each prompt's first sample."""
        found: dict[int, Bundle] = {}
        for sample in samples:
            found.setdefault(self.prompt_numbers[sample], []).append(sample)
        return list(found.values())

    def tokens(self, bundle: Bundle) -> int:
        """Return the number of tokens that a row holds for this bundle."""
        return int(self.prompts[bundle[0]] + self.responses[bundle].sum())

    def kept(self, rows: Iterable[Sequence[int]]) -> int:
        """Return the number of tokens that these rows of samples hold."""
        return sum(self.tokens(bundle) for row in rows for bundle in self.bundles(row))

    def saved(self, rows: Iterable[Sequence[int]]) -> float:
        """Return the share of the tokens of whole samples that these rows of samples do without; 0 without samples."""
        listed = list(rows)
        whole = sum(int(self.prompts[row].sum() + self.responses[row].sum()) for row in listed)
        return 1 - self.kept(listed) / whole if whole else 0.0


def plan_rows(
    sizes: Sizes,
    kinds: Sequence[str],
    flops: Callable[[int, int], float],
    tokens_per_micro_batch: int,
    data_parallel: int,
) -> list[Rows]:
    """Return the samples of each row of each data-parallel rank, as `packing.plan` deals them, whole bundles at a time.

    `flops` (tokens, predicted) is what one sequence of that many tokens costs, as `Architecture.forward_flops`. Groups
    are cut into bundles that fit the budget, and into more of them where that relieves the busiest rank. Raises
    UserError for a sequence longer than the budget.
    """
    check_lengths((sizes.prompts + sizes.responses).tolist(), tokens_per_micro_batch)
    groups = sizes.bundles(range(len(kinds)))

    def dealt(pieces: int) -> tuple[float, list[Rows]]:
        """Return the busiest rank's work, and the rows, with groups cut into at least this many bundles."""
        cut = (_cut(sizes, group, pieces, tokens_per_micro_batch) for group in groups)
        bundles = sorted(chain.from_iterable(cut))
        work = [_work(sizes, bundle, flops) for bundle in bundles]
        tokens, bundle_kinds = [sizes.tokens(bundle) for bundle in bundles], [kinds[bundle[0]] for bundle in bundles]
        plan = packing.plan(tokens, bundle_kinds, work, tokens_per_micro_batch, data_parallel)
        busiest = max(sum(work[i] for row in rank for i in row) for rank in plan)
        return busiest, [[sorted(chain.from_iterable(bundles[i] for i in row)) for row in rank] for rank in plan]

    busiest, rows = dealt(1)
    least = sum(_work(sizes, group, flops) for group in groups) / data_parallel  # no way of cutting comes under this
    pieces, largest = 2, max(map(len, groups), default=1)
    while data_parallel > 1 and busiest > CLOSE * least and pieces < 2 * largest:
        busiest, rows = min((busiest, rows), dealt(pieces), key=itemgetter(0))
        pieces *= 2
    return rows


def _cut(sizes: Sizes, group: Bundle, pieces: int, budget: int) -> list[Bundle]:
    """Return the group as the fewest bundles within the budget, at least `pieces` of them where it has as many
    samples."""
    if len(group) == 1 or (pieces == 1 and sizes.tokens(group) <= budget):
        return [group]
    responses, room = sizes.responses[group].tolist(), budget - int(sizes.prompts[group[0]])
    return [[group[i] for i in part] for part in packing.divide(responses, room, min(pieces, len(group)))]


def _work(sizes: Sizes, bundle: Bundle, flops: Callable[[int, int], float]) -> float:
    """Return what the passes of a bundle cost: those of its whole sequences, but for all prompts except one."""
    prompt = int(sizes.prompts[bundle[0]])
    whole = sum(flops(prompt + response, response) for response in sizes.responses[bundle].tolist())
    return whole - (len(bundle) - 1) * flops(prompt, 0) if len(bundle) > 1 else whole
