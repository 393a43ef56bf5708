"""The data order: whole epochs, no loss at their ends, a pure function of the step."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fastsvs.data.sampler import EpochSampler


@given(st.integers(1, 40), st.integers(1, 15), st.integers(0, 2**31))
def test_every_epoch_sees_every_problem_once(problems: int, per_step: int, seed: int) -> None:
    sampler = EpochSampler(problems, per_step, seed)
    steps = 3 * problems  # per_step whole passes or more
    order = [index for step in range(steps) for index in sampler.select(step)]
    for epoch in range(len(order) // problems):
        assert Counter(order[epoch * problems : (epoch + 1) * problems]) == Counter(range(problems))


@given(st.integers(1, 40), st.integers(1, 15), st.integers(0, 100))
def test_a_step_does_not_depend_on_earlier_calls(problems: int, per_step: int, step: int) -> None:
    used = EpochSampler(problems, per_step, seed=7)
    for earlier in range(step):
        used.select(earlier)
    assert used.select(step) == EpochSampler(problems, per_step, seed=7).select(step)


def test_epochs_and_seeds_differ() -> None:
    first = EpochSampler(50, 50, seed=0)
    assert first.select(0) != first.select(1)
    assert first.select(0) != EpochSampler(50, 50, seed=1).select(0)


def test_of_no_problems_none_are_drawn() -> None:
    assert EpochSampler(0, 8, seed=0).select(3) == []
