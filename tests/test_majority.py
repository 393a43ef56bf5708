"""maj@k against every subset of the samples."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsvs.majority import Votes, majority_at_k, votes

SAMPLES = st.lists(st.sampled_from(["right", "a", "b", "c", None]), min_size=1, max_size=8)


def brute_force(samples: list[str | None], k: int) -> float:
    """The mean over all subsets of the right answer's share among the most frequent ones."""

    def worth(subset: tuple[str | None, ...]) -> float:
        counts = Counter(answer for answer in subset if answer is not None)
        most = max(counts.values(), default=0)
        winners = [answer for answer, count in counts.items() if count == most]
        return winners.count("right") / len(winners) if winners else 0.0

    return fmean(worth(subset) for subset in combinations(samples, k))


def of(samples: list[str | None]) -> Votes:
    counts = Counter(answer for answer in samples if answer not in ("right", None))
    return Votes(samples.count("right"), tuple(sorted(counts.values(), reverse=True)), samples.count(None))


@given(SAMPLES, st.data())
@settings(max_examples=60)
def test_it_is_the_mean_over_all_subsets(samples: list[str | None], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(samples)))
    exact = k in (1, len(samples))
    assert majority_at_k(of(samples), k) == pytest.approx(brute_force(samples, k), abs=1e-12 if exact else 0.08)


def test_ties_share_and_the_silent_have_no_vote() -> None:
    assert majority_at_k(Votes(2, (2, 1)), 5) == 0.5
    assert majority_at_k(Votes(1, (), silent=9), 10) == 1.0
    assert majority_at_k(Votes(0, (), silent=4), 4) == 0.0
    assert majority_at_k(Votes(3, (1, 1, 1)), 6) == 1.0


def test_many_samples_take_no_time_to_speak_of() -> None:
    ballot = Votes(300, tuple([20] * 30), silent=124)
    assert majority_at_k(ballot, 512) == 1.0


@pytest.mark.parametrize("k", [0, 4])
def test_k_outside_the_samples(k: int) -> None:
    with pytest.raises(ValueError, match="1 <= k <= 3"):
        majority_at_k(Votes(1, (2,)), k)


def test_answers_are_told_apart_by_their_box() -> None:
    responses = [r"\boxed{1,000}", r"so \boxed{1000.}", r"\boxed{x + 1}", r"\boxed{x+1}", "no box", r"\boxed{7}"]
    ballot = votes(responses, ["wrong"] * 5 + ["correct"])
    assert ballot == Votes(correct=1, wrong=(2, 2), silent=1)
    assert (ballot.samples, ballot.distinct) == (6, 3)
