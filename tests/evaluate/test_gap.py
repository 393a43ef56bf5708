"""The generation-verification gap against its definition, by hand and by brute force."""

from __future__ import annotations

from fractions import Fraction
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.evaluate.gap import filtered, gap_figures, own_scores, read_vote, reweighted, vote_accuracy
from fastsvs.evaluate.pass_at_k import BOOTSTRAP_DRAWS

votes = st.lists(st.sampled_from([0, 1, None]), max_size=5)
problems = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), votes), min_size=1, max_size=6)
sets = st.lists(problems, min_size=1, max_size=5).map(
    lambda drawn: [([u for u, _ in problem], [v for _, v in problem]) for problem in drawn]
)


def test_a_hand_made_case() -> None:
    utilities = [1.0, 0.0, 0.0, 1.0]
    judgements = [[1, 1, 1, 0], [1, 0, 0, 0], [0, None, 0, 0], [1, 1, 0, 0]]
    assert own_scores(judgements) == [0.75, 0.25, 0, 0.5]
    assert reweighted(utilities, own_scores(judgements)) == pytest.approx(1.25 / 1.5)
    assert filtered(utilities, own_scores(judgements)) == 1.0  # the first response alone
    assert vote_accuracy(utilities, judgements) == pytest.approx((3 + 3 + 3 + 2) / 16)
    figures = gap_figures([(utilities, judgements)])
    assert list(figures["gap"].as_dict().values()) == pytest.approx([1 / 3] * 3)
    assert figures["gap_filtered"].mean == pytest.approx(0.5)
    assert figures["relative_gap"].mean == pytest.approx(2 / 3)
    assert figures["called_right"] == 6 / 16
    assert figures["unread_votes"] == 1 / 16
    assert figures["unjudged"] == 0


def test_means_are_over_problems_and_the_relative_gap_is_a_ratio_of_means() -> None:
    perfect = ([1.0, 0.0], [[1], [0]])
    blind = ([1.0, 0.0, 0.0, 0.0], [[1]] * 4)
    misled = ([1.0, 0.0], [[0], [1]])
    figures = gap_figures([perfect, blind, misled])
    assert figures["gap"].mean == pytest.approx((0.5 + 0 - 0.5) / 3)
    figures = gap_figures([perfect, blind])
    assert figures["relative_gap"].mean == pytest.approx((0.5 / 2) / (1 - (0.5 + 0.25) / 2))
    assert figures["verification_accuracy"].mean == pytest.approx((1 + 0.25) / 2)


def test_nothing_to_gain_and_nothing_said() -> None:
    figures = gap_figures([([1.0, 1.0], [[1], [0]])])
    assert (figures["gap"].mean, figures["relative_gap"].mean) == (0, 0)
    silent = gap_figures([([1.0, 0.0], [[], []])])
    assert (silent["gap"].mean, silent["unjudged"]) == (0, 1)
    assert "verification_accuracy" not in silent


@given(sets)
def test_against_brute_force(answered: list) -> None:
    """Exact fractions: the re-weighted utility is the expectation over (response, vote) pairs that say right, each
    response being picked as often as any other."""
    gaps, kept_gaps, means = [], [], []
    for utilities, judgements in answered:
        mean = Fraction(sum(map(int, utilities)), len(utilities))
        weights = [Fraction(sum(v == 1 for v in vs), len(vs)) if vs else Fraction(0) for vs in judgements]
        weighted = [int(u) * w for u, w in zip(utilities, weights, strict=True)]
        kept = [int(u) for u, w in zip(utilities, weights, strict=True) if 2 * w > 1]
        gaps.append(sum(weighted) / sum(weights) - mean if any(weights) else Fraction(0))
        kept_gaps.append(Fraction(sum(kept), len(kept)) - mean if kept else Fraction(0))
        means.append(mean)
    figures = gap_figures(answered)
    total, room = sum(gaps) / len(gaps), 1 - sum(means) / len(means)
    assert figures["gap"].mean == pytest.approx(float(total))
    assert figures["gap_filtered"].mean == pytest.approx(float(sum(kept_gaps) / len(kept_gaps)))
    assert figures["relative_gap"].mean == pytest.approx(float(total / room) if room else 0)
    assert -float(sum(means) / len(means)) - 1e-9 <= figures["gap"].mean <= float(room) + 1e-9
    assert figures["gap"].low - 1e-9 <= figures["gap"].mean <= figures["gap"].high + 1e-9


@given(sets)
def test_a_verifier_that_knows_closes_the_whole_gap(answered: list) -> None:
    knowing = [(utilities, [[int(u)] for u in utilities]) for utilities, _ in answered]
    figures = gap_figures(knowing)
    unsolved = fmean(not any(utilities) for utilities, _ in answered)
    mean = fmean(fmean(utilities) for utilities, _ in answered)
    assert figures["verification_accuracy"].mean == 1
    assert figures["gap"].mean == pytest.approx(1 - unsolved - mean)
    assert figures["gap"].mean == pytest.approx(figures["gap_filtered"].mean)


def test_the_relative_gaps_interval_is_that_of_resampled_problems() -> None:
    random = np.random.default_rng(7)
    answered = []
    for _ in range(40):
        utilities = (random.random(4) < 0.5).astype(float)
        answered.append((list(utilities), [[int(random.random() < 0.3 + 0.4 * u)] for u in utilities]))
    estimate = gap_figures(answered)["relative_gap"]
    ratios = []
    for _ in range(BOOTSTRAP_DRAWS):
        drawn = [answered[i] for i in random.integers(40, size=40)]
        gap = fmean(reweighted(u, own_scores(j)) - fmean(u) for u, j in drawn)
        ratios.append(gap / (1 - fmean(fmean(u) for u, _ in drawn)))
    assert [estimate.low, estimate.high] == pytest.approx(np.percentile(ratios, [2.5, 97.5]), abs=0.04)


@pytest.mark.parametrize(
    ("response", "vote"),
    [("so it is \\boxed{1}", 1), ("\\boxed{1} no: \\boxed{0}", 0), ("\\boxed{2}", None), ("right", None), ("", None)],
)
def test_the_last_box_is_the_vote(response: str, vote: int | None) -> None:
    assert read_vote(response) == vote
