"""The training batch: ragged, flat over response tokens, one row of scalars per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Number of responses that are not learned from, and of their tokens."""

    samples: int = 0
    tokens: int = 0

    def __add__(self, other: LeftOut) -> LeftOut:
        return LeftOut(self.samples + other.samples, self.tokens + other.tokens)


SampleName = tuple[str, int]
"""Key of a group, and the number of one of its responses."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A training batch of `samples` sequences of prompt + response. Every `[response_tokens]` tensor is the
    concatenation, sample after sample, of one fp32 value per response token; all are on the CPU."""

    prompt_ids: Sequence[np.ndarray]
    """Prompts, [samples] arrays of int64 token ids."""
    response_ids: Sequence[np.ndarray]
    """Responses, [samples] arrays of int64 token ids, none empty."""
    kinds: Sequence[str]
    """Experience kind of each sample, [samples]: original, synthesis, variant (or a plug-in's own)."""
    groups: Tensor
    """Group number of each sample, [samples] int64; samples of one prompt share a number."""
    rewards: Tensor
    """Reward of each sample, [samples] fp32."""
    advantages: Tensor
    """Advantage of each response token, [response_tokens]."""
    rollout_logprobs: Tensor
    """Log-probs of the engine that sampled the tokens, [response_tokens]."""
    old_logprobs: Tensor | None = None
    """Log-probs of the policy before the first update, [response_tokens]; None when the batch takes one update (ratio
    1)."""
    reference_logprobs: Tensor | None = None
    """Log-probs of the reference model, [response_tokens]; None without a KL term."""
    penalties: Tensor | None = None
    """Number to add to each reward before advantages are taken, [samples] fp32, 0 or less; None where lengths cost
    nothing."""
    experts: Sequence[np.ndarray] | None = None
    """Experts that computed each token of prompt and response but the last when it was sampled, [samples] arrays
    [tokens - 1, layers, active] int16; None where the engine does not say."""
    watched: Sequence[SampleName | None] | None = None
    """Names of the samples whose tokens are logged, [samples], with None for all others; None where no sample is."""
    left_out: LeftOut = LeftOut()
    """Responses of the step that the filters left out of the batch."""

    def __len__(self) -> int:
        return len(self.response_ids)

    @property
    def response_lengths(self) -> Tensor:
        """Return the length of each response in tokens, [samples] int64."""
        return torch.tensor([len(ids) for ids in self.response_ids], dtype=torch.int64)

    def select(self, samples: Sequence[int]) -> Batch:
        """Return a batch of the given samples, in the given order."""
        ends = self.response_lengths.cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        tokens = torch.cat([torch.arange(0), *(torch.arange(starts[i], ends[i]) for i in samples)])
        index = torch.as_tensor(list(samples), dtype=torch.int64)

        def pick(flat: Tensor | None) -> Tensor | None:
            return None if flat is None else flat[tokens]

        return replace(
            self,
            prompt_ids=[self.prompt_ids[i] for i in samples],
            response_ids=[self.response_ids[i] for i in samples],
            kinds=[self.kinds[i] for i in samples],
            groups=self.groups[index],
            rewards=self.rewards[index],
            penalties=None if self.penalties is None else self.penalties[index],
            advantages=self.advantages[tokens],
            experts=None if self.experts is None else [self.experts[i] for i in samples],
            watched=None if self.watched is None else [self.watched[i] for i in samples],
            rollout_logprobs=self.rollout_logprobs[tokens],
            old_logprobs=pick(self.old_logprobs),
            reference_logprobs=pick(self.reference_logprobs),
        )
