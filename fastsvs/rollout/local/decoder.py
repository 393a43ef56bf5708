"""The forward pass of a decoder over the KV cache: whole prompts, then one token a sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from fastsvs.architecture import Architecture, rotary_frequencies
from fastsvs.rollout.local.cache import KVCache, blocks
from fastsvs.rollout.local.linear import linear
from fastsvs.rollout.local.mixture import gated, mix
from fastsvs.rollout.local.weights import LayerWeights, Weights

Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Function (layer, queries [tokens, heads, head_dim], keys and values [tokens, kv_heads, head_dim]) -> [tokens, heads *
head_dim]."""


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder: its shape, its weights and its rotary factors."""

    shape: Architecture
    weights: Weights
    rotations: Tensor
    """Rotary factors [max_positions, head_dim / 2] complex64."""

    def prefill(
        self, prompts: Tensor, lengths: Tensor, owners: Tensor, cache: KVCache, first_slot: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Read `prompts`, store their keys and values, and return logits [prompts, vocabulary] for the token after each
        prompt, and the experts of all tokens, [prompts * longest, active] int64 of each layer that has some.

        `prompts` is [prompts, longest] int64, padded on the right; `lengths` [prompts] counts the tokens without
        padding. Slot `first_slot + i` is a continuation of prompt `owners[i]`.
        """
        count, longest = prompts.shape
        positions = torch.arange(longest, device=prompts.device).repeat(count)
        attention = self._prompt_attention(cache, first_slot, owners, count)
        flat, routes = self._forward(prompts.flatten(), positions, attention)
        hidden = flat.unflatten(0, (count, longest))
        return self._logits(hidden[torch.arange(count, device=prompts.device), lengths - 1]), routes

    def decode(self, tokens: Tensor, positions: Tensor, length: int, cache: KVCache) -> tuple[Tensor, list[Tensor]]:
        """Return logits [slots, vocabulary] after one more token in each of the first `slots` slots, and the experts of
        these tokens, [slots, active] int64 of each layer that has some.

        `tokens` and `positions` are [slots] int64; `length` is greater than every position.
        """
        hidden, routes = self._forward(tokens, positions, self._cached_attention(cache, positions, length))
        return self._logits(hidden), routes

    def _forward(self, tokens: Tensor, positions: Tensor, attention: Attention) -> tuple[Tensor, list[Tensor]]:
        """Return hidden states [tokens, hidden] before the last norm, and the experts of each layer with some; `tokens`
        and `positions` are [tokens]."""
        routes: list[Tensor] = []
        hidden = F.embedding(tokens, self.weights.embedding)
        rotations = self._rotations(positions)
        for index, layer in enumerate(self.weights.layers):
            chosen = self._layer(hidden, index, layer, rotations, attention)
            routes += [] if chosen is None else [chosen]
        return hidden, routes

    def _layer(
        self, hidden: Tensor, index: int, layer: LayerWeights, rotations: Tensor, attention: Attention
    ) -> Tensor | None:
        """Add the layer's two branches to `hidden` in place, and return the experts of each token, if there are any."""
        shape = self.shape
        qkv = linear(self._norm(hidden, layer.input_norm), layer.qkv, layer.qkv_bias)
        qkv = qkv.unflatten(1, (shape.heads + 2 * shape.groups, shape.head_dim))
        queries, keys, values = qkv.split([shape.heads, shape.groups, shape.groups], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = self._norm(queries, layer.query_norm), self._norm(keys, layer.key_norm)
        attended = attention(index, _rotate(queries, rotations), _rotate(keys, rotations), values)
        hidden += linear(attended, layer.output)
        normed = self._norm(hidden, layer.post_norm)
        if layer.mixture and shape.experts:
            mixed, chosen = mix(normed, layer, layer.mixture, shape.experts)
            hidden += mixed
            return chosen
        if layer.feed_forward:
            hidden += gated(normed, layer.feed_forward)
        return None

    def _rotations(self, positions: Tensor) -> Tensor:
        """Return the rotary factors [tokens, 1, head_dim / 2] complex64 of tokens at `positions` [tokens]."""
        return self.rotations[positions].unsqueeze(1)

    def _prompt_attention(self, cache: KVCache, first_slot: int, owners: Tensor, prompts: int) -> Attention:
        """Return causal attention within each prompt. A token never sees the padding on its right."""
        return _prompt_attention(cache, first_slot, owners, prompts)

    def _cached_attention(self, cache: KVCache, positions: Tensor, length: int) -> Attention:
        """Return attention of one new token per slot to its own past; the token's key and value are stored first."""
        return _cached_attention(cache, positions, length)

    def _logits(self, hidden: Tensor) -> Tensor:
        return linear(self._norm(hidden, self.weights.norm), self.weights.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, self.shape.norm_epsilon)


def rotations(hf: PretrainedConfig) -> Tensor:
    """Return [max_positions, head_dim / 2] complex64 on the CPU: the factors that turn each pair of a head's
    dimensions."""
    frequencies, scale = rotary_frequencies(hf)
    angles = torch.outer(torch.arange(hf.max_position_embeddings, dtype=torch.float32), frequencies)
    return torch.polar(torch.full_like(angles, scale), angles)


def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn `x` [tokens, heads, head_dim] by `rotations` [tokens, 1, head_dim / 2]; pairs lie side by side (see
    weights.py)."""
    turned = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * rotations
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _prompt_attention(cache: KVCache, first_slot: int, owners: Tensor, prompts: int) -> Attention:
    slots = slice(first_slot, first_slot + len(owners))

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        queries, keys, values = (x.unflatten(0, (prompts, -1)).transpose(1, 2) for x in (queries, keys, values))
        longest = keys.shape[2]
        cache.keys[layer, slots, ..., :longest] = keys.transpose(2, 3)[owners]
        cache.values[layer, slots, :, :longest] = values[owners]
        attended = F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)
        return attended.transpose(1, 2).reshape(prompts * longest, -1)

    return attend


def _cached_attention(cache: KVCache, positions: Tensor, length: int) -> Attention:
    length = blocks(length)
    _, _, kv_heads, head_dim, _ = cache.keys.shape
    slots = torch.arange(len(positions), device=positions.device)
    pairs = len(positions) * kv_heads
    unseen = torch.arange(length, device=positions.device) > positions.unsqueeze(1)
    mask = torch.zeros(unseen.shape, device=positions.device).masked_fill_(unseen, -torch.inf)
    mask = mask.repeat_interleave(kv_heads, 0).unsqueeze(1)

    def attend(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        cache.keys[layer][slots, ..., positions] = keys.to(cache.keys.dtype)
        cache.values[layer][slots, :, positions] = values.to(cache.values.dtype)
        past_keys = cache.keys[layer].flatten(0, 1)[:pairs, :, :length]
        past_values = cache.values[layer].flatten(0, 1)[:pairs, :length]
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
