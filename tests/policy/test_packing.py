"""Properties of the packing plan."""

from collections import Counter
from itertools import chain
from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.errors import UserError
from fastsvs.policy import packing

BUDGET = 100
samples = st.lists(
    st.tuples(st.integers(1, BUDGET), st.sampled_from(["original", "synthesis", "variant"])), max_size=60
)
ranks = st.integers(1, 5)


def make(pairs, data_parallel):
    return packing.plan([n for n, _ in pairs], [kind for _, kind in pairs], BUDGET, data_parallel)


@given(samples, ranks)
def test_every_sample_is_in_exactly_one_micro_batch(pairs, data_parallel):
    flat = chain.from_iterable(chain.from_iterable(make(pairs, data_parallel)))
    assert sorted(flat) == list(range(len(pairs)))


@given(samples, ranks)
def test_budget_and_equal_counts(pairs, data_parallel):
    plan = make(pairs, data_parallel)
    assert len(plan) == data_parallel
    (count,) = {len(micro_batches) for micro_batches in plan}
    assert 1 <= count <= max(1, ceil(len(pairs) / data_parallel))
    for micro_batch in chain.from_iterable(plan):
        assert sum(pairs[i][0] for i in micro_batch) <= BUDGET


@given(samples, ranks)
def test_kinds_are_even_within_one(pairs, data_parallel):
    bins = [
        Counter(pairs[i][1] for i in micro_batch) for micro_batch in chain.from_iterable(make(pairs, data_parallel))
    ]
    for kind in {kind for _, kind in pairs}:
        counts = [counter[kind] for counter in bins]
        assert max(counts) - min(counts) <= 1


@given(samples, ranks)
def test_deterministic_and_pure(pairs, data_parallel):
    before = list(pairs)
    assert make(pairs, data_parallel) == make(pairs, data_parallel)
    assert pairs == before


def test_realistic_lengths_waste_little():
    """2048 responses with the lognormal lengths of reasoning: within 5% of the fewest micro-batches possible, and the
    ranks within 1% of each other."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(6.5, 0.8, 2048), 20, 8192).astype(int).tolist()
    kinds = rng.choice(["original", "synthesis", "variant"], 2048, p=[0.3, 0.1, 0.6]).tolist()
    plan = packing.plan(lengths, kinds, 12288, 4)
    assert len(plan[0]) <= 1.05 * ceil(sum(lengths) / (12288 * 4))
    load = [sum(lengths[i] for micro_batch in rank for i in micro_batch) for rank in plan]
    assert max(load) <= 1.01 * min(load)


def test_fewer_samples_than_ranks_leaves_empty_micro_batches():
    assert packing.plan([5, 7], ["original", "variant"], 10, 3) == [[[1]], [[0]], [[]]]
    assert packing.plan([], [], 10, 2) == [[[]], [[]]]


def test_too_long_a_sequence_is_named_with_what_would_be_right():
    with pytest.raises(UserError, match=r"1 of 3 sequences .*tokens_per_micro_batch \(10\).*11 tokens: raise it to 11"):
        packing.plan([3, 11, 10], ["original"] * 3, 10, 1)
