"""Rewards without labels: votes against brute force, confidence against float64 over a whole table of probabilities."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import REWARDS, Batch, Context, TokenStatistics, sample_rewards
from fastsvs.algorithms.rewards import vote_rewards
from fastsvs.config import AlgorithmConfig, MajorityConfig
from fastsvs.errors import UserError
from fastsvs.verify.answers import majority_share

ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=9)


def spell(batch: Batch, texts: list[str]) -> tuple[Batch, Context]:
    """The batch with characters for tokens."""
    ids = [np.array([ord(character) for character in text]) for text in texts]
    spelled = replace(batch, response_ids=ids)
    return spelled, Context(AlgorithmConfig(reward="majority"), decode=lambda ids: "".join(map(chr, ids)))


def test_the_majority_is_taken_for_right_whatever_the_form(make_ragged):
    texts = [r"\boxed{7}", r"so \boxed{07}", r"\boxed{8}", r"\boxed{1,000}", "no idea", r"\boxed{1000}", r"\boxed{x}"]
    batch, context = spell(make_ragged([1] * 7, groups=[0, 0, 0, 1, 1, 1, 1]), texts)
    assert sample_rewards(batch, context).tolist() == [1, 1, 0, 1, 0, 1, 0]
    assert context.metrics["majority_share"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert context.metrics["majority_groups"] == 2


@given(answers=ANSWERS, threshold=st.sampled_from([0.0, 0.25, 0.5, 0.6]), soft=st.booleans())
def test_votes_against_brute_force(answers, threshold, soft):
    counts = Counter(answer for answer in answers if answer is not None)
    share = max(counts.values(), default=0) / len(answers)
    rewards = vote_rewards(answers, MajorityConfig(threshold=threshold, soft=soft))
    assert majority_share(answers) == share
    if share <= threshold:
        assert set(rewards) == {0.0}
        return
    first = next(answer for answer in answers if counts.get(answer) == max(counts.values()))
    for answer, reward in zip(answers, rewards, strict=True):
        assert reward == (counts[answer] / len(answers) if soft else float(answer == first))


@given(answers=ANSWERS)
def test_a_response_without_an_answer_earns_nothing(answers):
    rewards = vote_rewards(answers, MajorityConfig())
    assert all(reward == 0 for answer, reward in zip(answers, rewards, strict=True) if answer is None)


class Table:
    """A probe whose policy gives every token its own distribution over five entries."""

    vocabulary = 5

    def __init__(self, tokens: int) -> None:
        self.logp = torch.randn(tokens, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).log_softmax(
            -1
        )

    def tokens(self, batch: Batch) -> TokenStatistics:
        chosen = self.logp[:, 2]
        return TokenStatistics(chosen, -(self.logp.exp() * self.logp).sum(-1), self.logp.mean(-1))


@pytest.mark.parametrize("name", ["self_certainty", "negative_entropy", "log_prob"])
def test_confidence_is_the_mean_over_the_response(make_ragged, name):
    lengths = [3, 1, 6]
    batch, table = make_ragged(lengths), Table(10)
    uniform = torch.full((5,), 0.2, dtype=torch.float64)
    per_token = {
        "self_certainty": (uniform * (uniform.log() - table.logp)).sum(-1),
        "negative_entropy": (table.logp.exp() * table.logp).sum(-1),
        "log_prob": table.logp[:, 2],
    }[name]
    expected = torch.stack([part.mean() for part in per_token.split(lengths)])
    rewards = sample_rewards(batch, Context(AlgorithmConfig(reward=name), table))
    torch.testing.assert_close(rewards, expected.float())


@pytest.mark.parametrize(
    ("values", "message"), [(torch.zeros(3), r"shape \(3,\)"), (torch.tensor([1.0, math.inf]), "not finite")]
)
def test_a_faulty_reward_is_named(make_ragged, monkeypatch, values, message):
    monkeypatch.setitem(REWARDS._entries, "faulty", lambda batch, context: values)
    with pytest.raises(UserError, match=f"'faulty' returned.*{message}"):
        sample_rewards(make_ragged([2, 3]), Context(AlgorithmConfig(reward="faulty")))


def test_a_context_without_policy_says_so(make_ragged):
    with pytest.raises(ValueError, match="no policy"):
        sample_rewards(make_ragged([2]), Context(AlgorithmConfig(reward="log_prob")))
