"""Figures of a batch under the policy as it is, from one pass over its rows without gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from fastsvs import distributed
from fastsvs.policy.model import PolicyModel
from fastsvs.policy.row import Row
from fastsvs.policy.step import Report, mean_logprobs, speaks_for_its_row, token_statistics

HiddenLook = Callable[[list[Tensor]], Tensor]
"""Function from the hidden states of some samples, [tokens, hidden] each, to their figures [samples, figures]. The
states are the last layer's, normed, before each response token."""


@dataclass(frozen=True, slots=True)
class PolicyStatistics:
    """The figures of `Policy.statistics`, the same on every rank."""

    logprobs: Tensor
    """Log-probs of the response tokens, [response_tokens] fp32 on the CPU."""
    entropy: Tensor
    """Entropies of the response tokens in nats, [response_tokens] fp32 on the CPU."""
    mean_logprobs: Tensor
    """Means of log p over the vocabulary, [response_tokens] fp32 on the CPU; 0 when not asked for."""
    hidden: dict[int, Tensor]
    """Figures [figures] of the hidden states of each sample that was asked for, by sample."""


@dataclass(slots=True)
class StatisticsHead:
    """The head of a pass that keeps the figures of this rank's rows; see `Policy.statistics` for what is asked for."""

    temperature: float
    vocabulary: int
    samples: Collection[int]
    look: HiddenLook | None
    certainty: bool
    flat: Tensor
    """Log-probs, entropies and mean log-probs, [3, response_tokens] fp32 on the CPU; 0 where other ranks have them."""
    hidden: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, model: PolicyModel, row: Row, hidden: Tensor) -> tuple[Tensor, Report]:
        """Keep the row's figures. There is nothing to differentiate or to report."""
        logprobs, entropy = token_statistics(model, row, hidden, self.temperature, self.vocabulary)
        means = torch.zeros_like(logprobs)
        if self.certainty:
            means = mean_logprobs(model, row, hidden, logprobs, self.temperature, self.vocabulary)
        if speaks_for_its_row():
            self.flat[:, row.own.places] = torch.stack([logprobs, entropy, means]).cpu()
            self._keep_hidden(row, hidden)
        return logprobs.sum(), {}

    def gathered(self) -> PolicyStatistics:
        """Return the figures of all ranks. Collective."""
        if distributed.world_size() > 1:
            dist.all_reduce(self.flat)
        found = {sample: values for part in distributed.gather(self.hidden) for sample, values in part.items()}
        logprobs, entropy, means = self.flat
        return PolicyStatistics(logprobs, entropy, means, {sample: found[sample] for sample in sorted(found)})

    def _keep_hidden(self, row: Row, hidden: Tensor) -> None:
        wanted = [place for place, sample in enumerate(row.samples) if sample in self.samples]
        if wanted and self.look:
            states = row.gather(hidden)
            found = self.look([states[row.whole.sequence == place] for place in wanted])
            self.hidden.update({row.samples[p]: values for p, values in zip(wanted, found, strict=True)})
