"""Weights by which token losses add up to the objective: one per sample, from counts over the whole update."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor


def aggregation_weights(
    lengths: Tensor,
    mode: Literal["token_mean", "sequence_mean", "dr_grpo"],
    max_response_tokens: int,
    more: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Return the weight of every token of a sample, `[samples]` fp32. The objective is the weighted sum over all
    tokens.

    `lengths` `[samples]` are the response lengths of the whole update, over all ranks and micro-batches, so that no
    split changes the gradient. `token_mean` gives 1 / tokens (DAPO, SvS), `sequence_mean` 1 / (samples x own length)
    (GRPO), and `dr_grpo` 1 / (samples x max_response_tokens) (arXiv 2503.20783). `more` are (samples, tokens) that
    count in the mean without being in the update.
    """
    own = lengths.double()
    samples, tokens = len(own) + more[0], own.sum() + more[1]
    match mode:
        case "token_mean":
            weights = (1 / tokens).expand(len(own))
        case "sequence_mean":
            weights = 1 / (samples * own)
        case "dr_grpo":
            weights = torch.full_like(own, 1 / (max(samples, 1) * max_response_tokens))
        case _:
            assert_never(mode)
    return weights.to(torch.float32)
