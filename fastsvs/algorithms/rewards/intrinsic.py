"""Rewards of the policy's own confidence (RLIF: "No Free Lunch", arXiv 2506.17219, section 3; self-certainty also in
arXiv 2505.19590).

All use the policy as it is before the update, not the one that a run began with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastsvs.algorithms.batch import Batch
from fastsvs.algorithms.context import Context
from fastsvs.algorithms.rewards.registry import REWARDS


@REWARDS.register("self_certainty")
def self_certainty(batch: Batch, context: Context) -> Tensor:
    """Return the mean over the tokens of KL(uniform, p), `[samples]`: -(log V + mean over the vocabulary of log p)."""
    means = response_means(context.probe.tokens(batch).mean_logprobs, batch)
    return -means - math.log(context.probe.vocabulary)


@REWARDS.register("negative_entropy")
def negative_entropy(batch: Batch, context: Context) -> Tensor:
    """Return minus the mean entropy of the tokens in nats, `[samples]`."""
    return -response_means(context.probe.tokens(batch).entropy, batch)


@REWARDS.register("log_prob")
def log_prob(batch: Batch, context: Context) -> Tensor:
    """Return the mean log-prob of the tokens, `[samples]`: the trajectory's log-prob over its length."""
    return response_means(context.probe.tokens(batch).logprobs, batch)


def response_means(values: Tensor, batch: Batch) -> Tensor:
    """Return the mean of `values` `[response_tokens]` over each response, `[samples]`."""
    lengths = batch.response_lengths
    sums = torch.zeros(len(batch), dtype=torch.float64)
    sums.index_add_(0, torch.arange(len(batch)).repeat_interleave(lengths), values.double())
    return (sums / lengths).float()
