import math
from dataclasses import replace

import pytest
import torch

from fastsvs.algorithms import Batch, Context, split_updates, token_advantages
from fastsvs.algorithms import make_batch as plain_batch
from fastsvs.config import AlgorithmConfig
from fastsvs.data.records import Problem
from fastsvs.errors import UserError
from fastsvs.rollout.engine import Rollout
from fastsvs.selfplay.types import Group, Task


def make_batch(groups: list[Group]) -> Batch:
    """With the advantages of the default configuration."""
    batch = plain_batch(groups)
    return replace(batch, advantages=token_advantages(batch, Context(AlgorithmConfig())))


def make_group(
    key: str, kind: str, lengths: list[int], rewards: list[float], prompt: tuple[int, ...] = (7, 8)
) -> Group:
    task = Task(key, kind, Problem(id=key, question="q", answer="1"), prompt, len(lengths))
    rollouts = [
        Rollout(tuple(range(length)), tuple(-0.1 * (t + 1) for t in range(length)), "stop", 0) for length in lengths
    ]
    return Group(task, tuple(rollouts), ("",) * len(lengths), rewards=tuple(rewards))


@pytest.fixture
def groups() -> list[Group]:
    """A short source response, and longer ones made from it: what B1 needs to show itself."""
    return [
        make_group("0", "original", [3, 2, 4], [1, 0, 0], prompt=(1,)),
        make_group("0/0", "synthesis", [9, 12], [0, 1], prompt=(2, 2)),
        make_group("0/0/1", "variant", [20, 1, 33, 6], [0, 1, 1, 0], prompt=(3, 3, 3)),
    ]


def test_samples_stand_in_order_with_their_own_fields(groups):
    batch = make_batch(groups)
    assert batch.response_lengths.tolist() == [3, 2, 4, 9, 12, 20, 1, 33, 6]
    assert [len(prompt) for prompt in batch.prompt_ids] == [1] * 3 + [2] * 2 + [3] * 4
    assert list(batch.kinds) == ["original"] * 3 + ["synthesis"] * 2 + ["variant"] * 4
    assert batch.groups.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert batch.rewards.tolist() == [1, 0, 0, 0, 1, 0, 1, 1, 0]
    expected = [logprob for group in groups for rollout in group.rollouts for logprob in rollout.logprobs]
    torch.testing.assert_close(batch.rollout_logprobs, torch.tensor(expected))
    assert batch.old_logprobs is None
    assert batch.reference_logprobs is None


@pytest.mark.parametrize("kind", ["original", "synthesis", "variant"])
def test_every_own_token_of_every_kind_has_its_advantage(groups, kind):
    """B1: the SvS code masks synthesis and variant advantages with the length of the source response."""
    batch = make_batch(groups)
    own = batch.select([i for i, each in enumerate(batch.kinds) if each == kind])
    assert len(own.advantages) == own.response_lengths.sum()
    assert own.advantages.ne(0).all()
    per_sample = own.advantages.split(own.response_lengths.tolist())
    assert all((values == values[0]).all() for values in per_sample)
    assert [bool(values[0] > 0) for values in per_sample] == [reward > 0 for reward in own.rewards]


def test_groups_are_compared_with_themselves_alone(groups):
    alone = torch.cat([make_batch([group]).advantages for group in groups])
    assert torch.equal(make_batch(groups).advantages, alone)


def test_updates_of_a_batch_hold_all_its_tokens(groups):
    batch = make_batch(groups)
    parts = [batch.select(update) for update in split_updates(batch, 4, seed=3)]
    assert len(parts) == 3
    assert sum(len(part.advantages) for part in parts) == len(batch.advantages)
    assert sum(part.advantages.abs().sum() for part in parts) == pytest.approx(batch.advantages.abs().sum())


def test_a_step_without_groups_is_an_empty_batch():
    batch = make_batch([])
    assert len(batch) == 0
    assert split_updates(batch, 8, seed=0) == []


def test_a_reward_that_is_not_finite_is_found():
    with pytest.raises(UserError, match=r"reward of sample 1 of group 9 \(original\) is nan"):
        make_batch([make_group("9", "original", [1, 1], [0, math.nan])])


@pytest.mark.parametrize(("lengths", "rewards"), [([2, 2], []), ([2, 0], [0, 1])])
def test_an_incomplete_group_is_an_error(lengths, rewards):
    with pytest.raises(ValueError, match="group 9 has"):
        make_batch([make_group("9", "original", lengths, rewards)])
