import math
from itertools import groupby

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import ADVANTAGES, Context, token_advantages
from fastsvs.algorithms.advantages import group_relative, leave_one_out
from fastsvs.config import AlgorithmConfig
from fastsvs.errors import UserError

grouped_rewards = st.lists(st.tuples(st.integers(-3, 3), st.floats(-2, 2, width=32)), min_size=1, max_size=24)


def slow_group_relative(rows: list[tuple[int, float]], normalize: bool) -> list[float]:
    result = []
    for group, reward in rows:
        members = [other for key, other in rows if key == group]
        if len(members) == 1:
            mean, std = 0.0, 1.0
        else:
            mean = math.fsum(members) / len(members)
            std = math.sqrt(math.fsum((r - mean) ** 2 for r in members) / (len(members) - 1))
        result.append((reward - mean) / (std + 1e-6 if normalize else 1.0))
    return result


def slow_leave_one_out(rows: list[tuple[int, float]]) -> list[float]:
    result = []
    for index, (group, reward) in enumerate(rows):
        others = [other for at, (key, other) in enumerate(rows) if key == group and at != index]
        result.append(reward - (math.fsum(others) / len(others) if others else 0.0))
    return result


def columns(rows: list[tuple[int, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([r for _, r in rows], dtype=torch.float64), torch.tensor([g for g, _ in rows])


@given(grouped_rewards, st.booleans())
def test_group_relative_is_its_formula(rows, normalize):
    rewards, groups = columns(rows)
    expected = torch.tensor(slow_group_relative(rows, normalize), dtype=torch.float64)
    torch.testing.assert_close(group_relative(rewards, groups, normalize), expected, rtol=1e-9, atol=1e-9)


@given(grouped_rewards)
def test_leave_one_out_is_its_formula(rows):
    rewards, groups = columns(rows)
    expected = torch.tensor(slow_leave_one_out(rows), dtype=torch.float64)
    torch.testing.assert_close(leave_one_out(rewards, groups), expected, rtol=1e-9, atol=1e-9)


@given(st.data(), grouped_rewards, st.sampled_from(["grpo", "grpo_no_std", "rloo"]))
def test_order_of_samples_does_not_matter(data, rows, name):
    order = data.draw(st.permutations(range(len(rows))))

    def compute(rows):
        rewards, groups = columns(rows)
        return leave_one_out(rewards, groups) if name == "rloo" else group_relative(rewards, groups, name == "grpo")

    torch.testing.assert_close(compute([rows[i] for i in order]), compute(rows)[order], rtol=1e-9, atol=1e-9)


def test_one_correct_of_eight_gives_the_seed_papers_values():
    advantages = group_relative(torch.tensor([1.0] + [0.0] * 7), torch.zeros(8, dtype=torch.int64), True)
    expected = torch.tensor([2.4749] + [-0.3536] * 7)
    torch.testing.assert_close(advantages, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0, -3.7])
def test_equal_rewards_give_exactly_zero(reward):
    rewards, groups = torch.full((7,), reward), torch.zeros(7, dtype=torch.int64)
    assert not group_relative(rewards, groups, True).any()
    assert not leave_one_out(rewards, groups).any()


def test_a_group_of_one_keeps_its_reward():
    rewards, groups = torch.tensor([0.5]), torch.tensor([3])
    assert group_relative(rewards, groups, False).item() == 0.5
    assert leave_one_out(rewards, groups).item() == 0.5


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_advantage_reaches_every_token_of_its_own_response(make_ragged, name):
    """B1: a mask of another response's length would leave the tails of longer ones at 0."""
    lengths = [2, 5, 9, 1, 30, 4]
    kinds = ["original", "original", "synthesis", "synthesis", "variant", "variant"]
    batch = make_ragged(lengths, rewards=[1, 0, 1, 0, 1, 0], groups=[0, 0, 1, 1, 2, 2], kinds=kinds)
    context = Context(AlgorithmConfig(advantage=name))
    advantages = token_advantages(batch, context)
    per_sample = ADVANTAGES.get(name)(batch, context)
    assert advantages.dtype == torch.float32
    assert advantages.shape == (sum(lengths),)
    runs = [(value, len(list(run))) for value, run in groupby(advantages.tolist())]
    assert runs == list(zip(per_sample.tolist(), lengths, strict=True))
    assert 0.0 not in per_sample


def test_a_plug_in_may_give_one_value_per_token(make_ragged, monkeypatch):
    monkeypatch.setitem(ADVANTAGES._entries, "ramp", lambda batch, context: torch.arange(5.0))
    advantages = token_advantages(make_ragged([2, 3]), Context(AlgorithmConfig(advantage="ramp")))
    assert advantages.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("values", "message"), [(torch.zeros(4), r"shape \(4,\)"), (torch.tensor([1.0, math.nan]), "not finite")]
)
def test_a_faulty_plug_in_is_named(make_ragged, monkeypatch, values, message):
    monkeypatch.setitem(ADVANTAGES._entries, "faulty", lambda batch, context: values)
    with pytest.raises(UserError, match=f"'faulty' returned.*{message}"):
        token_advantages(make_ragged([2, 3]), Context(AlgorithmConfig(advantage="faulty")))


def test_unknown_name_lists_the_known_ones(make_ragged):
    with pytest.raises(UserError, match=r"unknown advantage 'grop'.*Did you mean 'grpo'.*grpo, rloo"):
        token_advantages(make_ragged([1]), Context(AlgorithmConfig(advantage="grop")))
