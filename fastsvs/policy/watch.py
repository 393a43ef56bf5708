"""Tokens of some samples as updates see them: what the fused head computes for the loss is kept instead of computed
again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from fastsvs import distributed
from fastsvs.algorithms import Batch, SampleName
from fastsvs.policy.row import ResponseTokens, Row


@dataclass
class TokenWatch:
    """Log-probs and entropies of the tokens of watched samples (`Batch.watched`), under the policy as it was before the
    update that learned from them."""

    _seen: dict[SampleName, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Places in the batch of each sample's tokens that this rank has, [tokens] int64, and their log-probs and entropies
    in nats, [2, tokens] on this rank's device."""

    def note(self, batch: Batch, row: Row, tokens: ResponseTokens, logprobs: Tensor, entropy: Tensor) -> None:
        """Keep what was found for the watched samples among some of a row's tokens, [response_tokens] each, without
        waiting for the device."""
        if batch.watched is None:
            return
        for sample, count, end in zip(row.samples, tokens.counts, accumulate(tokens.counts), strict=True):
            name, part = batch.watched[sample], slice(end - count, end)
            if name is not None:
                self._seen[name] = tokens.places[part], torch.stack([logprobs[part], entropy[part]])

    def gathered(self) -> Mapping[SampleName, Tensor]:
        """Return what all ranks have kept, [2, tokens] fp32 on the CPU for each sample. Collective."""
        parts: dict[SampleName, list[tuple[Tensor, Tensor]]] = {}
        for seen in distributed.gather({name: (places, seen.cpu()) for name, (places, seen) in self._seen.items()}):
            for name, part in seen.items():
                parts.setdefault(name, []).append(part)
        return {name: _in_order(found) for name, found in parts.items()}


def _in_order(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the values of a sample's tokens, which context-parallel ranks share out, in the order of the response."""
    places, values = zip(*parts, strict=True)
    return torch.cat(values, dim=1)[:, torch.cat(places).argsort()]
