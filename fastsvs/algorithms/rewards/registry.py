"""Rewards by name: those of the experience stage, and others that need no right answer."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context
from fastsvs.algorithms.results import as_tensor, first_fault
from fastsvs.errors import UserError
from fastsvs.registry import Registry

RewardFn = Callable[[Batch, Context], Tensor]
"""Function from a batch to its rewards `[samples]`; the same on every rank."""

REWARDS = Registry[RewardFn]("reward", takes=("batch", "context"))


@REWARDS.register("verified")
def verified(batch: Batch, context: Context) -> Tensor:
    """Return the rewards of the experience stage, from verdicts and from the results of self-made problems,
    `[samples]`."""
    return batch.rewards


def needs_labels(name: str) -> bool:
    """Check whether a RewardFn depends on what is known to be correct. All others are asked about every response."""
    return REWARDS.get(name) is verified


def sample_rewards(batch: Batch, context: Context) -> Tensor:
    """Return the rewards `[samples]` fp32 from the RewardFn that the configuration names. Raises UserError when it is
    unknown or returns another shape or a value that is not finite."""
    name = context.config.reward
    rewards = as_tensor(f"reward {name!r}", REWARDS.get(name)(batch, context))
    if rewards.shape != (len(batch),):
        raise UserError(
            f"reward {name!r} returned shape {tuple(rewards.shape)}; it must be [samples] = ({len(batch)},)"
        )
    if not rewards.isfinite().all():
        raise UserError(f"reward {name!r} returned a value that is not finite ({first_fault(rewards)})")
    return rewards
