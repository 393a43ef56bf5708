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
from fastsvs.rollout.local.cache import KVCache
from fastsvs.rollout.local.decoder import Attention, Decoder
from fastsvs.rollout.local.weights import LayerWeights


@dataclass(frozen=True, slots=True)
class InvariantDecoder(Decoder):
    """A `Decoder` of a dense model in fp32 on a CPU. Its `rotations` are cosines and sines, [2, max_positions,
    head_dim], and its cache has whole splits of keys."""

    def _rotations(self, positions: Tensor) -> Tensor:
        """Return cosines and sines [2, tokens, head_dim]."""
        return self.rotations[:, positions]

    def _layer(
        self, hidden: Tensor, index: int, layer: LayerWeights, rotations: Tensor, attention: Attention
    ) -> Tensor | None:
        shape, feed_forward = self.shape, layer.feed_forward
        assert feed_forward is not None
        share = shape.heads // shape.groups
        qkv = product(self._norm(hidden, layer.input_norm), layer.qkv)
        if layer.qkv_bias is not None:
            qkv += layer.qkv_bias
        grouped = qkv.view(-1, shape.groups, share + 2, shape.head_dim)
        queries = grouped[:, :, :share].flatten(1, 2)
        keys, values = grouped[:, :, share], grouped[:, :, share + 1]
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = self._norm(queries, layer.query_norm), self._norm(keys, layer.key_norm)
        attended = attention(index, *rotate(queries, keys, rotations), values)
        hidden += product(attended, layer.output)
        hidden += product(swiglu(product(self._norm(hidden, layer.post_norm), feed_forward.gate_up)), feed_forward.down)
        return None

    def _prompt_attention(self, cache: KVCache, first_slot: int, owners: Tensor, prompts: int) -> Attention:
        slots = slice(first_slot, first_slot + len(owners))

        def run(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            queries, keys, values = (x.unflatten(0, (prompts, -1)) for x in (queries, keys, values))
            longest = keys.shape[1]
            laid_keys = keys.new_zeros(prompts, *cache.keys.shape[2:4], whole_splits(longest))
            laid_keys[..., :longest] = keys.permute(0, 2, 3, 1)
            laid_values = values.new_zeros(prompts, cache.values.shape[2], whole_splits(longest), values.shape[-1])
            laid_values[:, :, :longest] = values.transpose(1, 2)
            cache.keys[layer, slots, ..., :longest] = laid_keys[owners][..., :longest]
            cache.values[layer, slots, :, :longest] = laid_values[owners][:, :, :longest]
            seen = torch.arange(1, longest + 1).expand(prompts, -1)
            return attend(queries, laid_keys, laid_values, seen).flatten(0, 1).flatten(1)

        return run

    def _cached_attention(self, cache: KVCache, positions: Tensor, length: int) -> Attention:
        count = len(positions)
        slots, seen = torch.arange(count), positions.unsqueeze(1) + 1

        def run(layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
            cache.keys[layer][slots, ..., positions] = keys
            cache.values[layer][slots, :, positions] = values
            past = cache.keys[layer, :count], cache.values[layer, :count]
            return attend(queries.unsqueeze(1), *past, seen).flatten(1)

        return run

    def _logits(self, hidden: Tensor) -> Tensor:
        return product(self._norm(hidden, self.weights.norm), self.weights.head)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self.shape.norm_epsilon)


def exact_logprobs(logits: Tensor, ids: Tensor, temperatures: Tensor) -> Tensor:
    """Return the log-probs [rows] fp32 of `ids` [rows] int64 as the trainer computes them, from `logits` [rows,
    vocabulary] fp32 and `temperatures` [rows] fp64."""
    return logprob_entropy(logits, ids, temperature=temperatures)[0]
