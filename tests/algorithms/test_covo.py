"""CoVo's formulas: consistency, volatility, the vector of both, curiosity, and where steps begin."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms.rewards.covo import (
    consistency_and_volatility,
    curiosity,
    merge_steps,
    step_starts,
    vector_reward,
)

MATRICES = st.integers(2, 4).flatmap(
    lambda answers: st.lists(st.lists(st.integers(0, 3), min_size=answers, max_size=answers), min_size=1, max_size=16)
)


@pytest.mark.parametrize(
    ("distances", "consistency", "volatility"),
    [
        ([[1, 2], [1, 2], [1, 2], [1, 2]], 1.0, 0.0),
        ([[2, 1], [1, 2], [1, 2], [1, 2]], 0.75, 0.25),
        ([[1, 2], [1, 2], [2, 1], [1, 2]], 0.75, 0.75),
        ([[2, 1], [2, 1], [2, 1], [2, 1]], 0.0, 1.0),
        ([[1, 1], [2, 1]], 0.5, 1.0),
        ([[1, 1]], 1.0, 0.0),
    ],
)
def test_consistency_and_volatility_by_hand(distances, consistency, volatility):
    assert consistency_and_volatility(np.array(distances, dtype=float), own=0) == (consistency, volatility)


@given(MATRICES, st.data())
def test_consistency_and_volatility_against_brute_force(rows, data):
    own = data.draw(st.integers(0, len(rows[0]) - 1))
    steady = [all(row[own] <= other for other in row) for row in rows]
    last = max((place for place, stays in enumerate(steady, 1) if not stays), default=0)
    consistency, volatility = consistency_and_volatility(np.array(rows, dtype=float), own)
    assert consistency == pytest.approx(sum(steady) / len(rows))
    assert volatility == last / len(rows)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=9))
def test_the_reward_is_the_length_of_the_mean_vector(features):
    expected = abs(sum(cmath.rect(consistency, volatility) for consistency, volatility in features)) / len(features)
    assert vector_reward(features) == pytest.approx(expected, abs=1e-12)
    assert 0 <= vector_reward(features) <= 1 + 1e-12


def test_steady_responses_earn_more_than_erratic_ones():
    assert vector_reward([(1.0, 0.0)] * 3) == 1
    assert vector_reward([(0.5, 0.2), (0.5, 0.2)]) == pytest.approx(0.5)
    assert vector_reward([(0.5, 0.0), (0.5, 1.0)]) < 0.5, "vectors that point apart cancel in part"


def test_curiosity_by_hand():
    even = [-2.0, -2.0, -2.0]
    assert curiosity(even, [0]) == pytest.approx(2)
    lumpy = [-4.0, 0.0]  # P = (1, 0), so KL = ln 2
    assert curiosity(lumpy, [0]) == pytest.approx(2 - math.log(math.log(2) + 1))
    assert curiosity(even + lumpy, [0, 3]) == pytest.approx((2 + 2 - math.log(math.log(2) + 1)) / 2)
    assert curiosity([0.0, 0.0], [0]) == 0, "certainty has no distribution"


@given(st.lists(st.floats(-20, -1e-3), min_size=1, max_size=12), st.data())
def test_curiosity_against_the_formula(logprobs, data):
    starts = [0, *sorted(data.draw(st.sets(st.integers(1, max(len(logprobs) - 1, 1)))))] if len(logprobs) > 1 else [0]
    expected = []
    for first, end in zip(starts, [*starts[1:], len(logprobs)], strict=True):
        surprise = [-value for value in logprobs[first:end]]
        shares = [value / sum(surprise) for value in surprise]
        divergence = sum(share * math.log(share / (1 / len(shares))) for share in shares)
        expected.append(sum(surprise) / len(surprise) - math.log(divergence + 1))
    assert curiosity(logprobs, starts) == pytest.approx(sum(expected) / len(expected), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("texts", "starts"),
    [
        (["a", "\n", "b", "\n", "c"], [0, 2, 4]),
        (["a", ".\n\n", "b", "\n", " ", "\n", "c", "\n"], [0, 2, 6]),
        (["\n", " ", "a", "b\nc", "d", ""], [0, 4]),
        (["a", "b"], [0]),
        ([""], [0]),
    ],
)
def test_steps_begin_after_line_breaks(texts, starts):
    assert step_starts(texts) == starts


@given(st.lists(st.text(alphabet="ab \n", min_size=1, max_size=1), min_size=1, max_size=60))
def test_steps_are_the_lines_that_are_not_blank(texts):
    starts = step_starts(texts)
    whole = "".join(texts)
    assert len(starts) == max(len([line for line in whole.split("\n") if line.strip()]), 1)
    assert all(whole[start].strip() and "\n" in whole[:start] for start in starts[1:])


@given(st.integers(1, 60), st.integers(1, 20))
def test_merged_steps_are_even_and_begin_at_the_beginning(steps, most):
    starts = list(range(0, 3 * steps, 3))
    merged = merge_steps(starts, most)
    assert merged[0] == 0
    assert set(merged) <= set(starts)
    assert len(merged) == min(steps, most)
    sizes = np.diff([starts.index(start) for start in merged] + [steps])
    assert sizes.max() - sizes.min() <= 1
