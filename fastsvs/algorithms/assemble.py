"""Builds a step's training batch from its groups."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastsvs.algorithms.batch import Batch, LeftOut, SampleName
from fastsvs.errors import UserError

if TYPE_CHECKING:  # who only computes losses need not import engines and verifiers
    from fastsvs.rollout import Rollout
    from fastsvs.selfplay import Group


def make_batch(groups: Sequence[Group], discarded: Sequence[Group] = (), watched: Collection[str] = ()) -> Batch:
    """Return a batch of all samples of all groups, in order, with advantages of 0. It is empty without groups. The
    `discarded` groups are only counted. `watched` has the keys of the groups whose tokens are logged.

    The group is the unit of comparison: its index is the batch's group number. Raises UserError for a reward that is
    not finite. Raises ValueError for a group without a reward for each rollout, or a response without tokens or without
    a log-prob for each token.
    """
    for group in groups:
        _check(group)
    samples = [(index, group, rollout) for index, group in enumerate(groups) for rollout in group.rollouts]
    prompts = [np.array(group.task.prompt_ids, dtype=np.int64) for group in groups]
    tokens = sum(len(rollout.response_ids) for _, _, rollout in samples)
    return Batch(
        prompt_ids=[prompts[index] for index, _, _ in samples],
        response_ids=[np.array(rollout.response_ids, dtype=np.int64) for _, _, rollout in samples],
        kinds=[group.task.kind for _, group, _ in samples],
        groups=torch.tensor([index for index, _, _ in samples], dtype=torch.int64),
        rewards=torch.tensor([reward for group in groups for reward in group.rewards], dtype=torch.float32),
        advantages=torch.zeros(tokens),
        rollout_logprobs=torch.tensor(
            [logprob for _, _, rollout in samples for logprob in rollout.logprobs], dtype=torch.float32
        ),
        penalties=_penalties(groups),
        experts=_experts([rollout for _, _, rollout in samples]),
        watched=_watched(groups, watched),
        left_out=LeftOut(
            sum(len(group.rollouts) for group in discarded),
            sum(len(rollout.response_ids) for group in discarded for rollout in group.rollouts),
        ),
    )


def _experts(rollouts: Sequence[Rollout]) -> list[np.ndarray] | None:
    """Return the experts of each rollout, or None where the engine does not say."""
    found = [rollout.experts for rollout in rollouts if rollout.experts is not None]
    return found if found and len(found) == len(rollouts) else None


def _watched(groups: Sequence[Group], keys: Collection[str]) -> list[SampleName | None] | None:
    """Return the name of each sample of the groups with these keys, or None where there is no such group."""
    if not any(group.task.key in keys for group in groups):
        return None
    named = [(group.task.key, number) for group in groups for number in range(len(group.rollouts))]
    return [name if name[0] in keys else None for name in named]


def _penalties(groups: Sequence[Group]) -> Tensor | None:
    """Return the penalty of each sample, [samples] fp32, or None where no group has any."""
    if not any(group.penalties for group in groups):
        return None
    return torch.tensor([penalty for group in groups for penalty in group.penalties or (0.0,) * len(group.rollouts)])


def _check(group: Group) -> None:
    key = group.task.key
    if len(group.rewards) != len(group.rollouts):
        raise ValueError(f"group {key} has {len(group.rollouts)} rollouts but {len(group.rewards)} rewards")
    for sample, (reward, rollout) in enumerate(zip(group.rewards, group.rollouts, strict=True)):
        if not isfinite(reward):
            raise UserError(f"the reward of sample {sample} of group {key} ({group.task.kind}) is {reward}")
        ids, logprobs = len(rollout.response_ids), len(rollout.logprobs)
        if ids == 0 or ids != logprobs:
            raise ValueError(f"sample {sample} of group {key} has {ids} response tokens and {logprobs} log-probs")
