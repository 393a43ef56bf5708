"""Credit for a step's batch: rewards, the groups that they leave out, and advantages. It runs on every rank, with the
policy at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from fastsvs.algorithms import (
    Batch,
    Context,
    LeftOut,
    TokenStatistics,
    joined,
    needs_labels,
    sample_rewards,
    token_advantages,
)
from fastsvs.dynamics import rank_dynamics
from fastsvs.policy import Policy, PolicyStatistics
from fastsvs.selfplay import Experience, count
from fastsvs.training.session import Session

SLOTS = ("reward", "advantage")


@dataclass(frozen=True, slots=True)
class Credited:
    """A batch with its rewards and advantages."""

    batch: Batch
    """Batch to learn from, with its advantages."""
    metrics: dict[str, float]
    rewards: Tensor | None = None
    """Rewards [samples] of the whole batch, before anything was left out; None where they are the stage's own."""
    kept: Tensor | None = None
    """Mask [samples] bool of the whole batch, True where it is learned from; None where all of it is."""

    def record(self, experience: Experience) -> Experience:
        """Return the experience that the batch was made of, with its rewards, for the sample log and the counters."""
        if self.rewards is None or self.kept is None:
            return experience
        rewards = iter(self.rewards.tolist())
        starts = accumulate((len(group.rollouts) for group in experience.groups[:-1]), initial=0)
        rewarded = [replace(group, rewards=tuple(next(rewards) for _ in group.rollouts)) for group in experience.groups]
        kept = {group.task.key for group, start in zip(rewarded, starts, strict=False) if self.kept[start]}
        groups = [group for group in rewarded if group.task.key in kept]
        left_out = [group for group in rewarded if group.task.key not in kept]
        return Experience(
            groups,
            experience.counters | count([*rewarded, *experience.discarded], groups),
            [*experience.discarded, *left_out],
            idle_seconds=experience.idle_seconds,
        )


def assign(session: Session, batch: Batch) -> Credited:
    """Give the batch its rewards and advantages. Collective. Where rewards are not the stage's own, groups with equal
    rewards teach nothing and are left out. Penalties for length come after that, so that they decide on no group."""
    config = session.job.algorithm
    probe = PolicyProbe(session.policy, session.job.rollout.temperature)
    contexts = {
        slot: Context(config, probe, session.decode, session.encode, session.plugin_state.setdefault(slot, {}))
        for slot in SLOTS
    }
    rewards = kept = None
    if not needs_labels(config.reward):
        rewards = sample_rewards(batch, contexts["reward"])
        kept = unequal(rewards, batch.groups)
        lengths = batch.response_lengths[~kept]
        left_out = batch.left_out + LeftOut(len(lengths), int(lengths.sum()))
        batch = replace(batch, rewards=rewards, left_out=left_out).select(kept.nonzero().flatten().tolist())
    if batch.penalties is not None:
        batch = replace(batch, rewards=batch.rewards + batch.penalties)
    batch = replace(batch, advantages=token_advantages(batch, contexts["advantage"]))
    known = probe.logprobs_of(batch)
    if config.old_logprobs == "engine":
        batch = replace(batch, old_logprobs=batch.rollout_logprobs)
    elif known is not None and len(batch) > config.samples_per_update:
        batch = replace(batch, old_logprobs=known)
    metrics = joined(*(context.metrics for context in contexts.values()))
    return Credited(batch, {f"credit/{name}": figure for name, figure in metrics.items()}, rewards, kept)


def unequal(rewards: Tensor, groups: Tensor) -> Tensor:
    """Return a mask [samples] bool, True in groups whose rewards are not all the same."""
    _, index = groups.unique(return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    low = rewards.new_full((count,), torch.inf).scatter_reduce(0, index, rewards, "amin")
    high = rewards.new_full((count,), -torch.inf).scatter_reduce(0, index, rewards, "amax")
    return (low < high)[index]


class PolicyProbe:
    """The policy before its update. What was found for a batch is kept, so that two questions take one pass."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        self._policy = policy
        self._temperature = temperature
        self._seen: tuple[Batch, PolicyStatistics] | None = None
        self.vocabulary = policy.architecture.vocabulary
        self.max_sequence_tokens = policy.max_sequence_tokens

    def tokens(self, batch: Batch) -> TokenStatistics:
        if not len(batch):
            return TokenStatistics(*torch.zeros(3, 0))
        seen = self._policy.statistics(batch, self._temperature, certainty=True)
        self._seen = batch, seen
        return TokenStatistics(seen.logprobs, seen.entropy, seen.mean_logprobs)

    def ranks(self, batch: Batch, window: int, stride: int) -> Tensor:
        if not len(batch):
            return torch.zeros(0, 3, dtype=torch.float64)
        seen = self._policy.statistics(
            batch, self._temperature, range(len(batch)), lambda hidden: rank_dynamics(hidden, window, stride)
        )
        self._seen = batch, seen
        return torch.stack(list(seen.hidden.values()))

    def logprobs_of(self, batch: Batch) -> Tensor | None:
        """Return the log-probs [response_tokens] of the batch if they are known, else None."""
        if self._seen is None:
            return None
        seen, found = self._seen
        same = [id(ids) for ids in seen.response_ids] == [id(ids) for ids in batch.response_ids]
        return found.logprobs if same else None
