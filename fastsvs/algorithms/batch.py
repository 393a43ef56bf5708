"""The training batch: ragged, flat over response tokens, one row of scalars per sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """`samples` sequences of prompt + response. Every `[response_tokens]` tensor is the concatenation, sample after
    sample, of one fp32 value per response token; all are on the CPU."""

    prompt_ids: Sequence[np.ndarray]
    """[samples] arrays of int64 token ids."""
    response_ids: Sequence[np.ndarray]
    """[samples] arrays of int64 token ids, none empty."""
    kinds: Sequence[str]
    """[samples] experience kind: original, synthesis, variant (or a plug-in's own)."""
    groups: Tensor
    """[samples] int64: samples of one prompt share a number."""
    rewards: Tensor
    """[samples] fp32."""
    advantages: Tensor
    """[response_tokens]"""
    rollout_logprobs: Tensor
    """[response_tokens] as the engine sampled them."""
    old_logprobs: Tensor | None = None
    """[response_tokens] of the policy before the first update; None when the batch takes one update (ratio 1)."""
    reference_logprobs: Tensor | None = None
    """[response_tokens] of the reference model; None without a KL term."""

    def __len__(self) -> int:
        return len(self.response_ids)

    @property
    def response_lengths(self) -> Tensor:
        """[samples] int64."""
        return torch.tensor([len(ids) for ids in self.response_ids], dtype=torch.int64)

    def select(self, samples: Sequence[int]) -> Batch:
        """The given samples in the given order."""
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
            advantages=self.advantages[tokens],
            rollout_logprobs=self.rollout_logprobs[tokens],
            old_logprobs=pick(self.old_logprobs),
            reference_logprobs=pick(self.reference_logprobs),
        )
