"""Divides a step's batch into optimizer steps."""

from __future__ import annotations

from math import ceil
from random import Random

from fastsvs.algorithms.batch import Batch
from fastsvs.seeding import derive_seed


def split_updates(batch: Batch, samples_per_update: int, seed: int) -> list[list[int]]:
    """Return the sample indices of each of the ceil(samples / samples_per_update) updates.

    Every sample is in exactly one update. The sizes of updates differ by at most one, and so do their counts of each
    kind: an update of one kind alone, or a tail left out, would bias the step.
    """
    random = Random(derive_seed(seed, "updates"))
    by_kind: dict[str, list[int]] = {}
    for sample, kind in enumerate(batch.kinds):
        by_kind.setdefault(kind, []).append(sample)
    dealt: list[int] = []
    for kind in sorted(by_kind):
        random.shuffle(by_kind[kind])
        dealt += by_kind[kind]
    count = ceil(len(dealt) / samples_per_update)
    updates = [dealt[first::count] for first in range(count)]
    for update in updates:
        random.shuffle(update)
    return updates
