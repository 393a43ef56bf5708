"""The past of the tokens that are being computed, and attention to it over the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsvs.rollout.local.cache import KVCache, blocks
from fastsvs.rollout.local.delta import Recurrence

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Function (place in the cache, queries [tokens, heads, head_dim], keys and values [tokens, kv_heads, head_dim]) ->
[tokens, heads * head_dim]."""


@dataclass(frozen=True, slots=True)
class Past:
    """The past of the tokens that are being computed."""

    attention: Attention
    recurrence: Recurrence | None = None
    """None where the model has no delta nets."""


def prompt_attention(cache: KVCache, first_slot: int, owners: Tensor, prompts: int) -> Attention:
    """Return causal attention within each of `prompts` prompts, whose keys and values are stored in the slots from
    `first_slot` on, those of prompt `owners[i]` in slot `first_slot + i`. A token never sees the padding on its
    right."""
    slots = slice(first_slot, first_slot + len(owners))

    def attend(place: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys, values = (x.unflatten(0, (prompts, -1)).transpose(1, 2) for x in (queries, keys, values))
        longest = keys.shape[2]
        cache.keys[place, slots, ..., :longest] = keys.transpose(2, 3)[owners]
        cache.values[place, slots, :, :longest] = values[owners]
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        return attended.transpose(1, 2).reshape(prompts * longest, -1)

    return attend


def cached_attention(cache: KVCache, positions: Tensor, length: int) -> Attention:
    """Return attention of one new token per slot to its own past; the token's key and value are stored first."""
    length = blocks(length)
    _, _, kv_heads, head_dim, _ = cache.keys.shape
    slots = torch.arange(len(positions), device=positions.device)
    pairs = len(positions) * kv_heads
    unseen = torch.arange(length, device=positions.device) > positions.unsqueeze(1)
    mask = torch.zeros(unseen.shape, device=positions.device).masked_fill_(unseen, -torch.inf)
    mask = mask.repeat_interleave(kv_heads, 0).unsqueeze(1)

    def attend(place: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        cache.keys[place][slots, ..., positions] = keys.to(cache.keys.dtype)
        cache.values[place][slots, :, positions] = values.to(cache.values.dtype)
        past_keys = cache.keys[place].flatten(0, 1)[:pairs, :, :length]
        past_values = cache.values[place].flatten(0, 1)[:pairs, :length]
        grouped = queries.reshape(pairs, -1, head_dim).to(past_keys.dtype)
        weights = torch.softmax(_scores(grouped, past_keys, mask), dim=-1).to(past_values.dtype)
        return torch.bmm(weights, past_values).view(len(slots), -1).to(queries.dtype)

    return attend


def _scores(queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Return scores [pairs, queries, length] fp32 of queries [pairs, queries, head_dim] and keys [pairs, head_dim,
    length] in one dtype."""
    scale = queries.shape[-1] ** -0.5
    if keys.dtype is torch.float32:
        return torch.baddbmm(mask, queries, keys, alpha=scale)
    return torch.bmm(queries, keys, out_dtype=torch.float32).mul_(scale).add_(mask)
