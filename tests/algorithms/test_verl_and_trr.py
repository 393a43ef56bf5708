"""VERL's shaping and TRR++'s whitening against their formulas, number by number."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import Context, token_advantages
from fastsvs.algorithms.advantages import shaped_advantages, shaping, whitened_by_kind
from fastsvs.algorithms.advantages.verl import remember, running_means
from fastsvs.config import AlgorithmConfig, VerlConfig

FIGURES = st.floats(-50, 50)


def phi(rank: float, velocity: float, acceleration: float, means: list[float], gain: float) -> float:
    """Written out as in the paper."""
    d = [
        max(-5.0, min(5.0, (m - mu) / (abs(mu) + 1e-8)))
        for m, mu in zip((rank, velocity, acceleration), means, strict=True)
    ]
    beta = 1 / (1 + math.exp(-gain * d[2]))
    return beta * math.tanh(d[0]) + (1 - beta) * math.tanh(d[1])


@given(st.lists(st.tuples(FIGURES, FIGURES, FIGURES), min_size=1, max_size=5), st.tuples(FIGURES, FIGURES, FIGURES))
def test_shaping_is_the_formula(ranks, means):
    actual = shaping(torch.tensor(ranks, dtype=torch.float64), torch.tensor(means, dtype=torch.float64), 2.0)
    assert actual.tolist() == pytest.approx([phi(*rank, list(means), 2.0) for rank in ranks], abs=1e-9)


@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(1.01, 5))
def test_a_shaped_advantage_never_changes_its_sign_or_falls(advantage, bonus, kappa):
    a, phi_ = torch.tensor([advantage], dtype=torch.float64), torch.tensor([bonus], dtype=torch.float64)
    shaped = shaped_advantages(a, phi_, kappa).item()
    assert shaped == pytest.approx(advantage + min(max(bonus, 0), abs(advantage) / kappa))
    assert shaped >= advantage
    assert shaped * advantage >= 0
    assert abs(shaped - advantage) <= abs(advantage) / kappa + 1e-12


def test_running_means_are_the_ema_of_earlier_steps():
    state: dict = {}
    assert running_means(state, VerlConfig()).tolist() == [0, 0, 0]
    first, second = torch.tensor([[1.0, 2, 3], [3, 2, 1]]).double(), torch.tensor([[4.0, 4, 4]]).double()
    remember(state, first, VerlConfig(momentum=0.3))
    remember(state, second, VerlConfig(momentum=0.3))
    state = json.loads(json.dumps(state))
    plain = 0.7 * (0.3 * torch.tensor([2.0, 2, 2])) + 0.3 * 4
    torch.testing.assert_close(running_means(state, VerlConfig()).float(), plain)
    corrected = running_means(state, VerlConfig(bias_correction=True)).float()
    torch.testing.assert_close(corrected, plain / (1 - 0.7**2))


def test_bias_correction_makes_a_constant_its_own_mean():
    state: dict = {}
    config = VerlConfig(bias_correction=True)
    for _ in range(3):
        remember(state, torch.tensor([[5.0, -1, 0.5]]).double(), config)
        assert running_means(state, config).tolist() == pytest.approx([5.0, -1, 0.5])


class Ranks:
    vocabulary = 0

    def __init__(self, ranks: list[list[float]]) -> None:
        self.found = torch.tensor(ranks, dtype=torch.float64)

    def ranks(self, batch, window: int, stride: int) -> torch.Tensor:
        return self.found


def test_the_whole_response_is_shaped_and_the_step_remembered(make_ragged):
    batch = make_ragged([2, 3], rewards=[1, 0], groups=[0, 0])
    context = Context(AlgorithmConfig(advantage="verl"), Ranks([[9, 9, 9], [9, 9, 9]]))
    plain = token_advantages(batch, Context(AlgorithmConfig(advantage="grpo")))
    shaped = token_advantages(batch, context)
    size = plain.abs()[0].item()
    # before the first step the means are 0: every deviation is at its limit, Phi is tanh(5), the cap is |A| / 2
    torch.testing.assert_close(shaped, plain + torch.tensor([size / 2]).clamp(max=math.tanh(5)).expand(5))
    assert context.state["means"] == pytest.approx([2.7] * 3)
    assert context.metrics == {"verl_bonus": pytest.approx(math.tanh(5)), "verl_raised": 1.0}


@given(st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 1.0]), st.integers(0, 1), st.integers(1, 5)), min_size=2))
def test_whitening_counts_every_token(samples):
    rewards, kinds, lengths = (torch.tensor(column) for column in zip(*samples, strict=True))
    actual = whitened_by_kind(rewards, kinds, lengths)
    for kind in (0, 1):
        tokens = [r for r, k, n in samples if k == kind for _ in range(n)]
        if len(tokens) < 2:
            continue
        values = torch.tensor(tokens, dtype=torch.float64)
        expected = (values - values.mean()) / (values.var() + 1e-8).sqrt()
        torch.testing.assert_close(actual[kinds == kind].repeat_interleave(lengths[kinds == kind]).double(), expected)


def test_trr_compares_a_kind_with_itself(make_ragged):
    batch = make_ragged(
        [1, 1, 1, 1], rewards=[1, -1, 0.5, 0.5], kinds=["solve", "solve", "propose", "propose"], groups=[0, 1, 2, 3]
    )
    advantages = token_advantages(batch, Context(AlgorithmConfig(advantage="trr")))
    assert advantages.tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5), 0, 0], abs=1e-6)
