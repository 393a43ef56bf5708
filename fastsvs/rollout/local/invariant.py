"""The decoder in the trainer's own arithmetic, with the same bits for a token whatever is decoded beside it.

Every step is the function, and every fused weight has the layout, that the policy's forward pass has in the
batch-invariant mode of `fastsvs.kernels.invariant`; see docs/rollout.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastsvs.elementwise import rms_norm, rotate, swiglu
from fastsvs.invariant import attend, whole_splits
from fastsvs.kernels import logprob_entropy
from fastsvs.kernels.invariant import product
from fastsvs.rollout.local.cache import Cache
from fastsvs.rollout.local.decoder import Decoder
from fastsvs.rollout.local.past import Past
from fastsvs.rollout.local.weights import AttentionWeights, LayerWeights


@dataclass(frozen=True, slots=True)
class InvariantDecoder(Decoder):
    """A `Decoder` of a dense model in fp32 on a CPU. Its `rotations` are cosines and sines, [2, max_positions,
    head_dim], and its cache has whole splits of keys."""

    def _rotations(self, positions: Tensor) -> Tensor:
        """Return cosines and sines [2, tokens, head_dim]."""
        return self.rotations[:, positions]

    def _layer(self, hidden: Tensor, layer: LayerWeights, rotations: Tensor, past: Past) -> Tensor | None:
        shape, feed_forward, weights = self.shape, layer.feed_forward, layer.mixer
        assert feed_forward is not None
        assert isinstance(weights, AttentionWeights)
        share = shape.heads // shape.groups
        qkv = product(self._norm(hidden, layer.input_norm), weights.qkv)
        if weights.qkv_bias is not None:
            qkv += weights.qkv_bias
        grouped = qkv.view(-1, shape.groups, share + 2, shape.head_dim)
        queries = grouped[:, :, :share].flatten(1, 2)
        keys, values = grouped[:, :, share], grouped[:, :, share + 1]
        if weights.query_norm is not None and weights.key_norm is not None:
            queries, keys = self._norm(queries, weights.query_norm), self._norm(keys, weights.key_norm)
        attended = past.attention(layer.place, *rotate(queries, keys, rotations), values)
        hidden += product(attended, weights.output)
        hidden += product(swiglu(product(self._norm(hidden, layer.post_norm), feed_forward.gate_up)), feed_forward.down)
        return None

    def _reading(self, cache: Cache, lengths: Tensor, longest: int, owners: Tensor, first_slot: int) -> Past:
        slots, prompts, kv = slice(first_slot, first_slot + len(owners)), len(lengths), cache.kv

        def run(place: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            queries, keys, values = (x.unflatten(0, (prompts, -1)) for x in (queries, keys, values))
            laid_keys = keys.new_zeros(prompts, *kv.keys.shape[2:4], whole_splits(longest))
            laid_keys[..., :longest] = keys.permute(0, 2, 3, 1)
            laid_values = values.new_zeros(prompts, kv.values.shape[2], whole_splits(longest), values.shape[-1])
            laid_values[:, :, :longest] = values.transpose(1, 2)
            kv.keys[place, slots, ..., :longest] = laid_keys[owners][..., :longest]
            kv.values[place, slots, :, :longest] = laid_values[owners][:, :, :longest]
            seen = torch.arange(1, longest + 1).expand(prompts, -1)
            return attend(queries, laid_keys, laid_values, seen).flatten(0, 1).flatten(1)

        return Past(run)

    def _stepping(self, cache: Cache, positions: Tensor, length: int) -> Past:
        count, kv = len(positions), cache.kv
        slots, seen = torch.arange(count), positions.unsqueeze(1) + 1

        def run(place: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            kv.keys[place][slots, ..., positions] = keys
            kv.values[place][slots, :, positions] = values
            past = kv.keys[place, :count], kv.values[place, :count]
            return attend(queries.unsqueeze(1), *past, seen).flatten(1)

        return Past(run)

    def _logits(self, hidden: Tensor) -> Tensor:
        return product(self._norm(hidden, self.weights.norm), self.weights.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self.shape.norm_epsilon)


def exact_logprobs(logits: Tensor, ids: Tensor, temperatures: Tensor) -> Tensor:
    """Return the log-probs [rows] fp32 of `ids` [rows] int64 as the trainer computes them, from `logits` [rows,
    vocabulary] fp32 and `temperatures` [rows] fp64."""
    return logprob_entropy(logits, ids, temperature=temperatures)[0]
