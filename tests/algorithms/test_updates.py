from collections import Counter
from math import ceil

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import Batch, split_updates

kind_lists = st.lists(st.sampled_from(["original", "synthesis", "variant"]), max_size=90)


def batch_of(kinds: list[str]) -> Batch:
    samples = len(kinds)
    ids, zeros = [np.array([1])] * samples, torch.zeros(samples)
    return Batch(ids, ids, kinds, torch.zeros(samples, dtype=torch.int64), zeros, zeros, zeros)


@given(kind_lists, st.integers(1, 40), st.integers(0, 5))
def test_every_sample_is_in_exactly_one_update(kinds, limit, seed):
    """B9: the SvS code cuts the tail."""
    updates = split_updates(batch_of(kinds), limit, seed)
    assert sorted(sample for update in updates for sample in update) == list(range(len(kinds)))
    assert len(updates) == ceil(len(kinds) / limit)
    sizes = [len(update) for update in updates]
    assert max(sizes, default=0) <= limit
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@given(kind_lists, st.integers(1, 40), st.integers(0, 5))
def test_every_update_has_its_share_of_each_kind(kinds, limit, seed):
    """B8: the SvS code concatenates the kinds and cuts contiguous updates, some of one kind alone."""
    updates = split_updates(batch_of(kinds), limit, seed)
    counts = [Counter(kinds[sample] for sample in update) for update in updates]
    for kind in set(kinds):
        per_update = [count[kind] for count in counts]
        assert max(per_update) - min(per_update) <= 1


def test_seed_decides_the_order():
    batch = batch_of(["original"] * 20 + ["variant"] * 44)
    first = split_updates(batch, 24, seed=1)
    assert first == split_updates(batch, 24, seed=1)
    assert first != split_updates(batch, 24, seed=2)


def test_kinds_are_mixed_within_an_update():
    batch = batch_of(["original"] * 32 + ["variant"] * 32)
    (update,) = split_updates(batch, 64, seed=0)
    first_half = Counter(batch.kinds[sample] for sample in update[:32])
    assert len(first_half) == 2
