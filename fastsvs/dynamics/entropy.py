"""Entropy of a policy's tokens: where in its responses it is sure, and where it is not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PERCENTILES = (10, 50, 90, 99)
TENTHS = 10


def entropy_figures(entropy: Tensor, lengths: Tensor, kinds: Sequence[str]) -> dict[str, float]:
    """Return figures of token entropies in nats [response_tokens], with `lengths` and `kinds` [samples].

    `entropy/<kind>/pNN` are percentiles over the tokens of one kind and of `all`. `entropy_at/0.0` to `0.9` are means
    over the tokens of each tenth of their responses.
    """
    values = entropy.double()
    sample = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    figures: dict[str, float] = {}
    for kind in ("all", *dict.fromkeys(kinds)):
        chosen = torch.tensor([kind in ("all", own) for own in kinds])
        points = torch.tensor(PERCENTILES, dtype=torch.float64) / 100
        for percentile, value in zip(PERCENTILES, _quantiles(values[chosen[sample]], points), strict=True):
            figures[f"entropy/{kind}/p{percentile}"] = float(value)
    starts = lengths.cumsum(0) - lengths
    place = torch.arange(len(values)) - starts[sample]
    tenth = place * TENTHS // lengths[sample]
    for index in range(TENTHS):
        if (tenth == index).any():
            figures[f"entropy_at/{index / TENTHS:.1f}"] = float(values[tenth == index].mean())
    return figures


def _quantiles(values: Tensor, points: Tensor) -> Tensor:
    """Return the quantiles at `points`, linear between neighbours as numpy's. torch.quantile refuses more than 16
    million values."""
    ordered = values.sort().values
    place = points * (len(ordered) - 1)
    below, above = place.floor().long(), place.ceil().long()
    return ordered[below].lerp(ordered[above], place - below)
