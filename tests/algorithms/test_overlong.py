"""DAPO's soft overlong punishment, against equation 13 of its paper, and what it must leave alone."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import make_batch, penalized
from fastsvs.algorithms.overlong import overlong_penalty
from fastsvs.config import AlgorithmConfig
from fastsvs.data.records import Problem
from fastsvs.rollout.engine import Rollout
from fastsvs.selfplay import ORIGINAL, SYNTHESIS, VARIANT, Experience, Group, Task

CONFIG = AlgorithmConfig(overlong_buffer=4, overlong_factor=0.5)


def group(key: str, kind: str, lengths: list[int], max_tokens: int | None = None) -> Group:
    judge = None if kind == SYNTHESIS else "answer"
    task = Task(key, kind, Problem(key, "q", "1"), (1,), len(lengths), judge=judge, max_tokens=max_tokens)
    rollouts = tuple(Rollout((7,) * length, (0.0,) * length, "stop", 0) for length in lengths)
    return Group(task, rollouts, ("",) * len(lengths), rewards=(1.0,) * len(lengths))


@given(st.integers(1, 300), st.data())
def test_the_penalty_is_that_of_equation_13(limit, data):
    length, buffer = data.draw(st.integers(1, limit + 5)), data.draw(st.integers(1, limit))
    if length <= limit - buffer:
        expected = Fraction(0)
    elif length <= limit:
        expected = Fraction(limit - buffer - length, buffer)
    else:
        expected = Fraction(-1)
    assert overlong_penalty(length, limit, buffer, 2.0) == pytest.approx(float(2 * expected))


def test_answers_lose_reward_before_their_own_limit_and_written_problems_do_not():
    learned = [
        group("0", ORIGINAL, [6, 7, 8, 10]),
        group("0/0", SYNTHESIS, [10, 20], max_tokens=20),
        group("0/0/0", VARIANT, [10, 10], max_tokens=12),
    ]
    found = penalized(Experience(learned, {"contexts": 1}, [group("1", ORIGINAL, [9, 1])]), CONFIG, 10)
    assert [each.penalties for each in found.groups] == [(0.0, -0.125, -0.25, -0.5), (), (-0.25, -0.25)]
    assert [each.penalties for each in found.discarded] == [(-0.375, 0.0)]
    assert [each.rewards for each in found.groups] == [each.rewards for each in learned]
    assert found.counters == {
        "contexts": 1,
        "overlong/original": 4,
        "overlong_penalty/original": pytest.approx(-1.25 / 6),
        "overlong/variant": 2,
        "overlong_penalty/variant": -0.25,
    }


def test_a_batch_carries_the_penalties_beside_the_rewards():
    found = penalized(Experience([group("0", ORIGINAL, [6, 10]), group("0/0", SYNTHESIS, [9])], {}), CONFIG, 10)
    batch = make_batch(found.groups)
    assert batch.rewards.tolist() == [1, 1, 1]
    assert batch.penalties is not None
    assert batch.penalties.tolist() == [0, -0.5, 0]
    part = batch.select([1])
    assert part.penalties is not None
    assert part.penalties.tolist() == [-0.5]


def test_without_a_buffer_nothing_changes():
    experience = Experience([group("0", ORIGINAL, [9, 10])], {})
    found = penalized(experience, AlgorithmConfig(), 10)
    assert found is experience
    assert make_batch(found.groups).penalties is None
