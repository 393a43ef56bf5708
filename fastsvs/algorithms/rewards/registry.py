"""Rewards by name: the stage's own, or others that need no right answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context
from fastsvs.errors import UserError
from fastsvs.registry import Registry

RewardFn = Callable[[Batch, Context], Tensor]
"""`[samples]` rewards of a batch; the same on every rank."""

REWARDS = Registry[RewardFn]("reward")


@REWARDS.register("verified")
def verified(batch: Batch, context: Context) -> Tensor:
    """What the experience stage gave: of verdicts, and of what came of self-made problems."""
    return batch.rewards


def needs_labels(name: str) -> bool:
    """Whether a RewardFn goes by what is known to be correct. All others are asked about every response."""
    return REWARDS.get(name) is verified


def sample_rewards(batch: Batch, context: Context) -> Tensor:
    """`[samples]` fp32 from the RewardFn that the configuration names. Raises UserError when it is unknown or returns
    another shape or a value that is not finite."""
    name = context.config.reward
    rewards = REWARDS.get(name)(batch, context).to(torch.float32)
    if rewards.shape != (len(batch),):
        raise UserError(
            f"reward {name!r} returned shape {tuple(rewards.shape)}; it must be [samples] = ({len(batch)},)"
        )
    if not rewards.isfinite().all():
        raise UserError(f"reward {name!r} returned a value that is not finite")
    return rewards
