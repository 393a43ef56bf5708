"""The forward pass of a decoder over the cache: whole prompts, then one token a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PretrainedConfig

from fastsvs.architecture import Architecture, rotary_frequencies
from fastsvs.rollout.local.cache import Cache
from fastsvs.rollout.local.delta import cached_recurrence, delta_net, prompt_recurrence
from fastsvs.rollout.local.linear import linear
from fastsvs.rollout.local.mixture import gated, mix
from fastsvs.rollout.local.past import Past, cached_attention, prompt_attention
from fastsvs.rollout.local.weights import AttentionWeights, DeltaWeights, LayerWeights, Weights


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder: its shape, its weights and its rotary factors."""

    shape: Architecture
    weights: Weights
    rotations: Tensor
    """Rotary factors [max_positions, rotary_dim / 2] complex64."""

    def prefill(
        self, prompts: Tensor, lengths: Tensor, owners: Tensor, cache: Cache, first_slot: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Read `prompts`, store what the cache keeps of them, and return logits [prompts, vocabulary] for the token
        after each prompt, and the experts of all tokens, [prompts * longest, active] int64 of each layer that has some.

        `prompts` is [prompts, longest] int64, padded on the right; `lengths` [prompts] counts the tokens without
        padding. Slot `first_slot + i` is a continuation of prompt `owners[i]`.
        """
        count, longest = prompts.shape
        positions = torch.arange(longest, device=prompts.device).repeat(count)
        past = self._reading(cache, lengths, longest, owners, first_slot)
        flat, routes = self._forward(prompts.flatten(), positions, past)
        hidden = flat.unflatten(0, (count, longest))
        return self._logits(hidden[torch.arange(count, device=prompts.device), lengths - 1]), routes

    def decode(self, tokens: Tensor, positions: Tensor, length: int, cache: Cache) -> tuple[Tensor, list[Tensor]]:
        """Return logits [slots, vocabulary] after one more token in each of the first `slots` slots, and the experts of
        these tokens, [slots, active] int64 of each layer that has some.

        `tokens` and `positions` are [slots] int64; `length` is greater than every position.
        """
        hidden, routes = self._forward(tokens, positions, self._stepping(cache, positions, length))
        return self._logits(hidden), routes

    def _forward(self, tokens: Tensor, positions: Tensor, past: Past) -> tuple[Tensor, list[Tensor]]:
        """Return hidden states [tokens, hidden] before the last norm, and the experts of each layer with some; `tokens`
        and `positions` are [tokens]."""
        routes: list[Tensor] = []
        hidden = F.embedding(tokens, self.weights.embedding)
        rotations = self._rotations(positions)
        for layer in self.weights.layers:
            chosen = self._layer(hidden, layer, rotations, past)
            routes += [] if chosen is None else [chosen]
        return hidden, routes

    def _layer(self, hidden: Tensor, layer: LayerWeights, rotations: Tensor, past: Past) -> Tensor | None:
        """Add the layer's two branches to `hidden` in place, and return the experts of each token, if there are any."""
        hidden += self._mixed(self._norm(hidden, layer.input_norm), layer, rotations, past)
        normed = self._norm(hidden, layer.post_norm)
        if layer.mixture and self.shape.experts:
            mixed, chosen = mix(normed, layer, layer.mixture, self.shape.experts)
            hidden += mixed
            return chosen
        if layer.feed_forward:
            hidden += gated(normed, layer.feed_forward)
        return None

    def _mixed(self, x: Tensor, layer: LayerWeights, rotations: Tensor, past: Past) -> Tensor:
        """Return what the layer's attention or delta net makes of `x` [tokens, hidden] and its past."""
        if isinstance(layer.mixer, DeltaWeights):
            assert past.recurrence is not None
            return delta_net(x, layer.mixer, layer.place, past.recurrence, self.shape.norm_epsilon)
        return self._attended(x, layer.mixer, layer.place, rotations, past)

    def _attended(self, x: Tensor, weights: AttentionWeights, place: int, rotations: Tensor, past: Past) -> Tensor:
        shape = self.shape
        projected = linear(x, weights.qkv, weights.qkv_bias).unflatten(1, (-1, shape.head_dim))
        ends = shape.heads, shape.heads + shape.groups, shape.heads + 2 * shape.groups
        queries, keys, values, gates = projected.tensor_split(ends, dim=1)
        if weights.query_norm is not None and weights.key_norm is not None:
            queries, keys = self._norm(queries, weights.query_norm), self._norm(keys, weights.key_norm)
        attended = past.attention(place, _rotate(queries, rotations), _rotate(keys, rotations), values)
        if shape.gated_attention:
            attended *= gates.flatten(1).sigmoid()
        return linear(attended, weights.output)

    def _rotations(self, positions: Tensor) -> Tensor:
        """Return the rotary factors [tokens, 1, rotary_dim / 2] complex64 of tokens at `positions` [tokens]."""
        return self.rotations[positions].unsqueeze(1)

    def _reading(self, cache: Cache, lengths: Tensor, longest: int, owners: Tensor, first_slot: int) -> Past:
        """Return the past of the tokens of whole prompts, padded to `longest` tokens."""
        attention = prompt_attention(cache.kv, first_slot, owners, len(lengths))
        if cache.states is None:
            return Past(attention)
        return Past(attention, prompt_recurrence(cache.states, lengths, longest, owners, first_slot))

    def _stepping(self, cache: Cache, positions: Tensor, length: int) -> Past:
        """Return the past of one new token per slot."""
        attention = cached_attention(cache.kv, positions, length)
        if cache.states is None:
            return Past(attention)
        return Past(attention, cached_recurrence(cache.states, len(positions)))

    def _logits(self, hidden: Tensor) -> Tensor:
        return linear(self._norm(hidden, self.weights.norm), self.weights.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x.to(weight.dtype), weight.shape, weight, self.shape.norm_epsilon).to(x.dtype)


def rotations(hf: PretrainedConfig) -> Tensor:
    """Return [max_positions, rotary_dim / 2] complex64 on the CPU: the factors that turn each pair of a head's
    first dimensions."""
    frequencies, scale = rotary_frequencies(hf)
    angles = torch.outer(torch.arange(hf.max_position_embeddings, dtype=torch.float32), frequencies)
    return torch.polar(torch.full_like(angles, scale), angles)


def _rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn the first dimensions of `x` [tokens, heads, head_dim] by `rotations` [tokens, 1, rotary_dim / 2]; pairs lie
    side by side (see places.py)."""
    pairs = rotations.shape[-1]
    turned = torch.view_as_complex(x[..., : 2 * pairs].float().unflatten(-1, (pairs, 2))) * rotations
    turned = torch.view_as_real(turned).flatten(-2).to(x.dtype)
    return turned if 2 * pairs == x.shape[-1] else torch.cat([turned, x[..., 2 * pairs :]], dim=-1)
