from collections import Counter
from dataclasses import replace
from math import ceil
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import Batch, LeftOut, split_updates, updates_of
from fastsvs.config import AlgorithmConfig
from fastsvs.seeding import derive_seed

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


grouped = st.lists(st.tuples(st.sampled_from(["original", "synthesis", "variant"]), st.integers(1, 9)), max_size=20)


def batch_of_groups(groups: list[tuple[str, int]]) -> Batch:
    batch = batch_of([kind for kind, size in groups for _ in range(size)])
    return replace(batch, groups=torch.tensor([n for n, (_, size) in enumerate(groups) for _ in range(size)]).long())


@given(grouped, st.integers(1, 40), st.integers(0, 5), st.booleans())
def test_groups_are_dealt_whole_as_far_as_the_shares_allow(groups, limit, seed, filled):
    batch = batch_of_groups(groups)
    updates = split_updates(batch, limit, seed, filled=filled)
    assert sorted(sample for update in updates for sample in update) == list(range(len(batch)))
    cut = sum(len({int(batch.groups[i]) for i in update}) for update in updates) - len(groups)
    kinds = len({kind for kind, _ in groups})
    largest = max((size for _, size in groups), default=1)
    assert cut <= kinds * len(updates) * (1 if filled else largest)


@given(grouped, st.integers(1, 40), st.integers(0, 5))
def test_updates_of_groups_have_their_share_of_each_kind(groups, limit, seed):
    batch = batch_of_groups(groups)
    counts = [Counter(batch.kinds[i] for i in update) for update in split_updates(batch, limit, seed)]
    assert max(map(Counter.total, counts), default=0) - min(map(Counter.total, counts), default=0) <= 1
    for kind in {kind for kind, _ in groups}:
        assert max(count[kind] for count in counts) - min(count[kind] for count in counts) <= 1


def test_few_of_many_groups_are_cut():
    groups = [("original", 8)] * 30 + [("synthesis", 8)] * 40 + [("variant", 8)] * 150
    batch = batch_of_groups(groups)
    for filled in (False, True):
        updates = split_updates(batch, 320, seed=0, filled=filled)
        cut = sum(len({int(batch.groups[i]) for i in update}) for update in updates) - len(groups)
        assert cut < 0.1 * len(groups)


@given(kind_lists, st.integers(1, 40), st.integers(0, 5))
def test_groups_of_one_go_round_one_by_one(kinds, limit, seed):
    batch = batch_of_groups([(kind, 1) for kind in kinds])
    random = Random(derive_seed(seed, "updates"))
    by_kind = {kind: [i for i, k in enumerate(kinds) if k == kind] for kind in sorted(set(kinds))}
    for samples in by_kind.values():
        random.shuffle(samples)
    dealt = [sample for samples in by_kind.values() for sample in samples]
    count = ceil(len(kinds) / limit)
    expected = [dealt[first::count] for first in range(count)]
    for part in expected:
        random.shuffle(part)
    assert split_updates(batch, limit, seed) == expected


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


@given(kind_lists, st.integers(1, 40), st.integers(0, 5))
def test_filled_updates_leave_only_the_last_one_short_and_mix_kinds(kinds, limit, seed):
    updates = split_updates(batch_of(kinds), limit, seed, filled=True)
    assert sorted(sample for update in updates for sample in update) == list(range(len(kinds)))
    assert [len(update) for update in updates[:-1]] == [limit] * (len(updates) - 1)
    for update in updates:
        for kind, count in Counter(kinds).items():
            mine = sum(kinds[sample] == kind for sample in update)
            assert abs(mine - count * len(update) / len(kinds)) <= 2


def of_lengths(lengths: list[int]) -> Batch:
    ids = [np.arange(length) for length in lengths]
    flat = torch.zeros(sum(lengths))
    zeros = torch.zeros(len(lengths))
    return Batch(ids, ids, ["original"] * len(lengths), zeros.long(), zeros, flat, flat)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=30),
    st.sampled_from(["token_mean", "sequence_mean", "dr_grpo"]),
)
def test_what_is_left_out_can_count_as_if_it_were_learned_from(samples, aggregation):
    """The reference code's RLVR keeps every response in the mean; those without an advantage add nothing else."""
    lengths = [length for length, _ in samples]
    kept = [sample for sample, (_, keeps) in enumerate(samples) if keeps]
    rest = [length for length, keeps in samples if not keeps]
    whole = of_lengths(lengths)
    some = replace(whole.select(kept), left_out=LeftOut(len(rest), sum(rest)))
    config = AlgorithmConfig(aggregation=aggregation)
    counted = updates_of(some, config.model_copy(update={"denominator": "all"}), 16, seed=0)
    if not kept:
        assert counted == []
        return
    [everything], [part] = updates_of(whole, config, 16, seed=0), counted
    by_length = dict(zip(everything.batch.response_lengths.tolist(), everything.weights.tolist(), strict=True))
    for length, weight in zip(part.batch.response_lengths.tolist(), part.weights.tolist(), strict=True):
        assert abs(weight - by_length[length]) <= 1e-6 * weight


def test_the_last_update_weighs_as_much_as_it_is_full():
    config = AlgorithmConfig(samples_per_update=8, updates="filled")
    full, last = updates_of(of_lengths([3] * 10), config, 16, seed=0)
    assert float(full.weights.sum() * 3) == pytest.approx(1)
    assert float(last.weights.sum() * 3) == pytest.approx(2 / 8)


def test_left_out_responses_fill_an_update_that_counts_them():
    config = AlgorithmConfig(samples_per_update=8, updates="filled", denominator="all")
    batch = replace(of_lengths([3] * 2), left_out=LeftOut(6, 18))
    [update] = updates_of(batch, config, 16, seed=0)
    torch.testing.assert_close(update.weights, torch.full((2,), 1 / 24))


@given(
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=30),
    st.sampled_from(["token_mean", "sequence_mean", "dr_grpo"]),
    st.integers(1, 40),
)
def test_samples_without_an_advantage_count_and_are_not_computed(samples, aggregation, limit):
    lengths = [length for length, _ in samples]
    advantages = torch.cat([torch.full((length,), float(moves)) for length, moves in samples])
    batch = replace(of_lengths(lengths), advantages=advantages)
    config = AlgorithmConfig(aggregation=aggregation, samples_per_update=limit)
    with_entropy = config.model_copy(update={"entropy_coefficient": 0.1})
    for lean, whole in zip(
        updates_of(batch, config, 16, seed=0), updates_of(batch, with_entropy, 16, seed=0), strict=True
    ):
        assert whole.idle == 0
        assert len(lean.batch) + lean.idle == len(whole.batch)
        spent = whole.weights.repeat_interleave(whole.batch.response_lengths) * whole.batch.advantages
        kept = lean.weights.repeat_interleave(lean.batch.response_lengths) * lean.batch.advantages
        torch.testing.assert_close(kept.sum(), spent.sum())
        if lean.idle:
            assert bool((lean.batch.advantages != 0).any())
