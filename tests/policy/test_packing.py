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


def work(length):
    """A cost with attention's square in it, in the proportion of a model of 0.6 B parameters."""
    return 8000 * length + length * length


def plan(lengths, kinds, budget, data_parallel):
    return packing.plan(lengths, kinds, [work(n) for n in lengths], budget, data_parallel)


def make(pairs, data_parallel):
    return plan([n for n, _ in pairs], [kind for _, kind in pairs], BUDGET, data_parallel)


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


def straightforward(lengths, kinds, budget, count):
    """Deal longest first into the least filled row that may take one of the kind, all rows looked at each time."""
    rows = [[] for _ in range(count)]
    share = {kind: divmod(number, count) for kind, number in Counter(kinds).items()}
    with_one_more = {kind: rest for kind, (_, rest) in share.items()}

    def held(row, kind):
        return sum(kinds[i] == kind for i in row)

    for sample in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        kind = kinds[sample]
        most = share[kind][0] + (with_one_more[kind] > 0)
        row = min((r for r in rows if held(r, kind) < most), key=lambda r: sum(lengths[i] for i in r))
        with_one_more[kind] -= held(row, kind) == share[kind][0]
        row.append(sample)
    return sorted(map(sorted, rows)) if all(sum(lengths[i] for i in row) <= budget for row in rows) else None


@given(samples, ranks)
def test_rows_are_those_of_the_straightforward_way_of_dealing(pairs, data_parallel):
    lengths, kinds = [n for n, _ in pairs], [kind for _, kind in pairs]
    planned = make(pairs, data_parallel)
    dealt = sorted(chain.from_iterable(planned))
    assert dealt == straightforward(lengths, kinds, BUDGET, len(planned[0]) * data_parallel)
    if len(planned[0]) > max(1, ceil(sum(lengths) / (BUDGET * data_parallel))):  # one row less was tried, and failed
        assert straightforward(lengths, kinds, BUDGET, (len(planned[0]) - 1) * data_parallel) is None


@given(samples, ranks)
def test_work_of_the_ranks_differs_by_no_more_than_that_of_the_rows_of_one_turn(pairs, data_parallel):
    costs = [[sum(work(pairs[i][0]) for i in row) for row in rank] for rank in make(pairs, data_parallel)]
    totals = [sum(rank) for rank in costs]
    assert max(totals) - min(totals) <= max(max(turn) - min(turn) for turn in zip(*costs, strict=True))
    assert all(rank == sorted(rank, reverse=True) for rank in costs)


def test_realistic_lengths_waste_little():
    """2048 responses with the lognormal lengths of reasoning: within 5% of the fewest micro-batches possible, and the
    ranks within 0.2% of each other in work."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(6.5, 0.8, 2048), 20, 8192).astype(int).tolist()
    kinds = rng.choice(["original", "synthesis", "variant"], 2048, p=[0.3, 0.1, 0.6]).tolist()
    planned = plan(lengths, kinds, 12288, 4)
    assert len(planned[0]) <= 1.05 * ceil(sum(lengths) / (12288 * 4))
    load = [sum(work(lengths[i]) for micro_batch in rank for i in micro_batch) for rank in planned]
    assert max(load) <= 1.002 * min(load)


def test_the_number_of_rows_is_found_in_few_trials(monkeypatch):
    """Few samples share a row here, so that far more rows are needed than the tokens alone would take."""
    trials = []

    def counted(*arguments):
        trials.append(arguments)
        return deal(*arguments)

    deal = packing._deal
    monkeypatch.setattr(packing, "_deal", counted)
    rng = np.random.default_rng(0)
    lengths = rng.choice([10, 5500, 7000], 3000, p=[0.5, 0.3, 0.2]).tolist()
    planned = plan(lengths, ["original"] * 3000, 12288, 2)
    fewest = ceil(sum(lengths) / (12288 * 2))
    assert len(planned[0]) > fewest + 30
    assert len(trials) < 15


def test_fewer_samples_than_ranks_leaves_empty_micro_batches():
    assert plan([5, 7], ["original", "variant"], 10, 3) == [[[1]], [[0]], [[]]]
    assert plan([], [], 10, 2) == [[[]], [[]]]


def test_too_long_a_sequence_is_named_with_what_would_be_right():
    with pytest.raises(UserError, match=r"1 of 3 sequences .*tokens_per_micro_batch \(10\).*11 tokens: raise it to 11"):
        plan([3, 11, 10], ["original"] * 3, 10, 1)
