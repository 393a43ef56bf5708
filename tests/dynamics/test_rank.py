"""Effective rank, velocity and acceleration against singular values in float64 and against cases worked by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastsvs.dynamics import rank_dynamics, rank_figures


def effective_rank(states: np.ndarray) -> float:
    """By definition."""
    sigma = np.linalg.svd(states - states.mean(axis=0), compute_uv=False)
    p = sigma / (sigma.sum() + 1e-8)
    return float(np.exp(-(p * np.log(p + 1e-8)).sum()))


def by_definition(states: np.ndarray, window: int, stride: int) -> list[float]:
    states = states[-window:]
    series = [effective_rank(states[: t + 1]) for t in range(stride, len(states), stride)]
    deltas = [series[j] - np.mean(series[:j]) for j in range(1, len(series))]
    changes = [later - earlier for earlier, later in pairwise(deltas)]
    return [
        effective_rank(states),
        float(np.mean(deltas)) if deltas else 0.0,
        float(np.mean(changes)) if changes else 0.0,
    ]


def draw(seed: int, tokens: int, width: int = 12) -> Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(2, 40), st.integers(1, 9))
@settings(max_examples=40)
def test_it_is_the_definition(lengths: list[int], window: int, stride: int) -> None:
    samples = [draw(seed, tokens) for seed, tokens in enumerate(lengths)]
    found = rank_dynamics(samples, window, stride)
    expected = [by_definition(sample.double().numpy(), window, stride) for sample in samples]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_known_ranks() -> None:
    line = torch.outer(torch.arange(5.0), torch.ones(3))  # one direction
    equal = torch.eye(4)  # centred: three directions of equal size
    still = torch.ones(6, 3)  # nothing moves
    ranks = [float(rank_dynamics([states], window=100, stride=50)[0, 0]) for states in (line, equal, still)]
    assert ranks == pytest.approx([1.0, 3.0, 1.0], abs=1e-5)


def test_only_the_window_counts() -> None:
    long = torch.cat([draw(0, 30), draw(1, 16)])
    assert rank_dynamics([long], 16, 4).equal(rank_dynamics([draw(1, 16)], 16, 4))


def test_means_by_kind() -> None:
    ranks = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0], [9.0, 9.0, 9.0]])
    figures = rank_figures(ranks, ["original", "original", "variant"])
    assert figures["effective_rank/original"] == 2.0
    assert figures["rank_velocity/original"] == 3.0
    assert figures["rank_acceleration/variant"] == 9.0
