"""Gated delta nets over the states in the cache: whole prompts, then one token a sequence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastsvs.delta_rule import (
    Chunks,
    causal_convolution,
    convolution_step,
    delta_rule,
    delta_step,
    gated_norm,
    gates,
)
from fastsvs.families import DeltaNet
from fastsvs.rollout.local.cache import DeltaStates
from fastsvs.rollout.local.linear import linear
from fastsvs.rollout.local.weights import DeltaWeights

Recurrence = Callable[[int, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Function (place in the cache, inputs of the convolution [tokens, channels], its weight [channels, kernel], logarithm
of the decay and step size [tokens, value_heads] fp32) -> [tokens, value_heads, value_dim]."""


def delta_net(x: Tensor, weights: DeltaWeights, place: int, recurrence: Recurrence, epsilon: float) -> Tensor:
    """Return what the delta net at `place` in the cache makes of `x` [tokens, hidden]: [tokens, hidden]."""
    net = weights.net
    sizes = [net.channels, net.value_width, net.value_heads, net.value_heads]
    mixed, gate, step, decay = linear(x, weights.projection).split(sizes, dim=1)
    log_decay, step = gates(step, decay, weights.log_rate, weights.bias)
    read = recurrence(place, mixed, weights.convolution, log_decay, step)
    normed = gated_norm(read, gate.unflatten(1, (net.value_heads, net.value_dim)), weights.norm, epsilon)
    return linear(normed.flatten(1), weights.output)


def prompt_recurrence(
    states: DeltaStates, lengths: Tensor, longest: int, owners: Tensor, first_slot: int
) -> Recurrence:
    """Return the recurrence over prompts of `lengths` [prompts], padded to `longest` tokens, which leave their states
    in the slots from `first_slot` on: those of prompt `owners[i]` in slot `first_slot + i`. Padding gets zeros."""
    slots = slice(first_slot, first_slot + len(owners))
    chunks = Chunks.of(lengths.tolist(), lengths.device)
    rows = (torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)).flatten().nonzero().flatten()

    def run(place: int, mixed: Tensor, weight: Tensor, log_decay: Tensor, step: Tensor) -> Tensor:
        convolved, windows = causal_convolution(mixed[rows], weight, chunks)
        read, memories = delta_rule(*_heads(convolved, states.net), log_decay[rows], step[rows], chunks)
        states.windows[place, slots] = windows[owners]
        states.memories[place, slots] = memories[owners]
        return read.new_zeros(len(mixed), *read.shape[1:]).index_copy_(0, rows, read)

    return run


def cached_recurrence(states: DeltaStates, slots: int) -> Recurrence:
    """Return the recurrence over one new token in each of the first `slots` slots, whose states go on with it."""

    def run(place: int, mixed: Tensor, weight: Tensor, log_decay: Tensor, step: Tensor) -> Tensor:
        window, memory = states.windows[place, :slots], states.memories[place, :slots]
        convolved, after = convolution_step(mixed, weight, window)
        window.copy_(after)
        read, after = delta_step(*_heads(convolved, states.net), log_decay, step, memory)
        memory.copy_(after)
        return read

    return run


def _heads(x: Tensor, net: DeltaNet) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and keys [tokens, key_heads, key_dim] and values [tokens, value_heads, value_dim] of `x` [tokens,
    channels]."""
    query, key, value = x.split([net.key_width, net.key_width, net.value_width], dim=1)
    keys = (net.key_heads, net.key_dim)
    return query.unflatten(1, keys), key.unflatten(1, keys), value.unflatten(1, (net.value_heads, net.value_dim))
