"""What is known of solve rates: probabilities of answers that were not asked yet."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.selfplay.posterior import SolveRate

COUNTS = st.integers(0, 40)


def exact(rate: SolveRate, answers: int, right: int) -> Fraction:
    """Polya's urn: the probability of each order of answers, one after the other."""
    total = Fraction(0)
    for order in product((True, False), repeat=answers):
        if sum(order) == right:
            urn, chance = [Fraction(rate.wrong), Fraction(rate.right)], Fraction(1)
            for answer in order:
                chance *= urn[answer] / sum(urn)
                urn[answer] += 1
            total += chance
    return total


@given(COUNTS, COUNTS, st.integers(0, 6))
def test_chances_are_those_of_an_urn_that_learns_from_each_answer(right: int, wrong: int, answers: int) -> None:
    rate = SolveRate().after(right, wrong)
    expected = [float(exact(rate, answers, count)) for count in range(answers + 1)]
    assert rate.chances(answers) == pytest.approx(expected)


@given(st.floats(0.1, 200), st.floats(0.1, 200), st.integers(0, 600))
def test_chances_of_any_number_of_answers_add_up(right: float, wrong: float, answers: int) -> None:
    chances = SolveRate(right, wrong).chances(answers)
    assert len(chances) == answers + 1
    assert sum(chances) == pytest.approx(1)
    mean = sum(count * chance for count, chance in enumerate(chances))
    assert mean == pytest.approx(answers * right / (right + wrong))


@given(COUNTS, COUNTS, st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))
def test_answers_differ_unless_all_are_right_or_all_wrong(a: int, b: int, right: int, wrong: int, more: int) -> None:
    chance = SolveRate().after(a, b).chance_to_differ(right, wrong, more)
    if right and wrong:
        assert chance == 1
    elif right or wrong:
        agree = (a + right, b + wrong) if right else (b + wrong, a + right)
        alike = prod((0.5 + agree[0] + i) / (1 + sum(agree) + i) for i in range(more))
        assert chance == pytest.approx(1 - alike, abs=1e-12)
    elif more < 2:
        assert chance == pytest.approx(0, abs=1e-12)
