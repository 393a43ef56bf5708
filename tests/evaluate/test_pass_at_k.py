"""pass@k against its definition, by counting every subset."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.evaluate import estimate, pass_at_k


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_equals_the_share_of_subsets_with_a_correct_sample(case: tuple[int, int, int]) -> None:
    n, c, k = case
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-12)


def test_known_values() -> None:
    assert pass_at_k(4, 1, 2) == 0.5
    assert pass_at_k(8, 7, 2) == 1.0
    assert pass_at_k(2048, 1, 1024) == 0.5


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_rejects_impossible_counts(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, c, k)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    truth, covered = 0.5, 0
    for trial in range(200):
        counts = [(8, int(generator.binomial(8, rate))) for rate in generator.uniform(0, 1, size=100)]
        result = estimate(counts, 1, seed=trial)
        assert result.low <= result.mean <= result.high
        covered += result.low <= truth <= result.high
    assert 0.88 <= covered / 200 <= 0.99
