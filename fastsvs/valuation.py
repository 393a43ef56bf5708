"""What a step's batch is worth: rewards, what they leave out, advantages. On every rank, with the policy at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastsvs.algorithms import Batch, Context, TokenStatistics, needs_labels, sample_rewards, token_advantages
from fastsvs.dynamics import rank_dynamics
from fastsvs.policy import Examination, Policy
from fastsvs.selfplay import Experience, Group
from fastsvs.session import Session

SLOTS = ("reward", "advantage")


@dataclass(frozen=True, slots=True)
class Valued:
    batch: Batch
    """What is learned from, advantages set."""
    rewards: Tensor
    """[samples] of the whole batch, before anything was left out."""
    kept: Tensor
    """[samples] bool of the whole batch."""
    metrics: dict[str, float]

    def record(self, experience: Experience) -> Experience:
        """The experience that the batch was made of, with these rewards, for the sample log."""
        rewards = iter(self.rewards.tolist())
        valued = [replace(group, rewards=tuple(next(rewards) for _ in group.rollouts)) for group in experience.groups]
        first_samples = _starts(experience.groups)
        kept = [bool(self.kept[first]) for first in first_samples]
        return replace(
            experience,
            groups=[group for group, stays in zip(valued, kept, strict=True) if stays],
            discarded=[*experience.discarded, *(g for g, stays in zip(valued, kept, strict=True) if not stays)],
        )


def value(session: Session, batch: Batch) -> Valued:
    """Collective. Where rewards are not the stage's own, groups with equal rewards teach nothing and are left out."""
    config = session.job.algorithm
    probe = PolicyProbe(session.policy, session.job.rollout.temperature)
    contexts = {
        slot: Context(config, probe, session.decode, session.encode, session.memory.setdefault(slot, {}))
        for slot in SLOTS
    }
    rewards = sample_rewards(batch, contexts["reward"])
    kept = torch.ones(len(batch), dtype=torch.bool) if needs_labels(config.reward) else unequal(rewards, batch.groups)
    chosen = replace(batch, rewards=rewards).select(kept.nonzero().flatten().tolist())
    chosen = replace(chosen, advantages=token_advantages(chosen, contexts["advantage"]))
    metrics = {name: figure for context in contexts.values() for name, figure in context.metrics.items()}
    if not needs_labels(config.reward):
        metrics |= {"kept_samples": int(kept.sum())} | ({"reward": float(rewards.mean())} if len(rewards) else {})
    known = probe.logprobs_of(chosen)
    if known is not None and len(chosen) > config.samples_per_update:
        chosen = replace(chosen, old_logprobs=known)
    return Valued(chosen, rewards, kept, {f"valuation/{name}": figure for name, figure in metrics.items()})


def unequal(rewards: Tensor, groups: Tensor) -> Tensor:
    """[samples] bool: of groups whose rewards are not all the same."""
    _, index = groups.unique(return_inverse=True)
    count = int(index.max()) + 1 if len(index) else 0
    low = rewards.new_full((count,), torch.inf).scatter_reduce(0, index, rewards, "amin")
    high = rewards.new_full((count,), -torch.inf).scatter_reduce(0, index, rewards, "amax")
    return (low < high)[index]


class PolicyProbe:
    """The policy before its update; what was found of a batch is kept, so that two questions take one pass."""

    def __init__(self, policy: Policy, temperature: float) -> None:
        self._policy = policy
        self._temperature = temperature
        self._seen: tuple[Batch, Examination] | None = None
        self.vocabulary = policy.architecture.vocabulary
        self.max_sequence_tokens = policy.max_sequence_tokens

    def tokens(self, batch: Batch) -> TokenStatistics:
        if not len(batch):
            return TokenStatistics(*torch.zeros(3, 0))
        seen = self._policy.examine(batch, self._temperature, certainty=True)
        self._seen = batch, seen
        return TokenStatistics(seen.logprobs, seen.entropy, seen.mean_logprobs)

    def ranks(self, batch: Batch, window: int, stride: int) -> Tensor:
        if not len(batch):
            return torch.zeros(0, 3, dtype=torch.float64)
        seen = self._policy.examine(
            batch, self._temperature, range(len(batch)), lambda hidden: rank_dynamics(hidden, window, stride)
        )
        self._seen = batch, seen
        return torch.stack(list(seen.hidden.values()))

    def logprobs_of(self, batch: Batch) -> Tensor | None:
        """[response_tokens], if they are known."""
        if self._seen is None:
            return None
        seen, found = self._seen
        same = [id(ids) for ids in seen.response_ids] == [id(ids) for ids in batch.response_ids]
        return found.logprobs if same else None


def _starts(groups: Sequence[Group]) -> list[int]:
    """Of each group the first sample in the batch."""
    starts, next_start = [], 0
    for group in groups:
        starts.append(next_start)
        next_start += len(group.rollouts)
    return starts
