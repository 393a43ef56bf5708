"""The decoder's parameters, fused for few large GEMMs; `places.py` says where Hugging Face tensors go in them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.families import DeltaNet, Experts


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Parameters of a gated feed-forward."""

    gate_up: Tensor
    """[2 * ffn, hidden]"""
    down: Tensor
    """[hidden, ffn]"""


@dataclass(frozen=True, slots=True)
class MixtureWeights:
    """Parameters of a layer's experts."""

    router: Tensor
    """[experts, hidden]"""
    experts: list[FeedForward]
    shared_gate: Tensor | None
    """[1, hidden]; None where there is no shared expert."""


@dataclass(frozen=True, slots=True)
class AttentionWeights:
    """Parameters of a layer's attention."""

    qkv: Tensor
    """Queries, keys, values, and with gated attention the gates of the queries' heads: [(heads + 2 groups [+ heads]) *
    head_dim, hidden]."""
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    """[head_dim]"""
    key_norm: Tensor | None
    """[head_dim]"""
    output: Tensor
    """[hidden, heads * head_dim]"""


@dataclass(frozen=True, slots=True)
class DeltaWeights:
    """Parameters of a gated delta net."""

    net: DeltaNet
    """Its shape."""
    projection: Tensor
    """Queries, keys and values, gates, step sizes and decays: [channels + value_heads * (value_dim + 2), hidden]."""
    convolution: Tensor
    """[channels, kernel]"""
    log_rate: Tensor
    """[value_heads] fp32"""
    bias: Tensor
    """[value_heads] fp32"""
    norm: Tensor
    """[value_dim]"""
    output: Tensor
    """[hidden, value_heads * value_dim]"""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Parameters of one layer."""

    input_norm: Tensor
    """[hidden]"""
    mixer: AttentionWeights | DeltaWeights
    """Part of the layer that takes a token's past in."""
    place: int
    """Number of this layer among those with such a mixer, which is its place in the cache."""
    post_norm: Tensor
    """[hidden]"""
    feed_forward: FeedForward | None
    """Feed-forward of every token; with experts the shared one, if there is one."""
    mixture: MixtureWeights | None


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of the whole decoder."""

    embedding: Tensor
    """[vocabulary, hidden]"""
    layers: list[LayerWeights]
    norm: Tensor
    """[hidden]"""
    head: Tensor
    """[vocabulary, hidden]; the embedding itself when tied."""


def allocate(shape: Architecture, dtype: torch.dtype, device: torch.device) -> Weights:
    """Allocate uninitialised parameters. Zero-centred norms are in fp32: 1 is added to them as they are loaded, which
    half precision would round."""

    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    def single(*size: int) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device=device)

    def norm(size: int) -> Tensor:
        return single(size) if shape.centred_norm else empty(size)

    def attention() -> AttentionWeights:
        heads = shape.heads * (2 if shape.gated_attention else 1) + 2 * shape.groups
        return AttentionWeights(
            qkv=empty(heads * shape.head_dim, shape.hidden),
            qkv_bias=empty(heads * shape.head_dim) if shape.qkv_bias else None,
            query_norm=norm(shape.head_dim) if shape.qk_norm else None,
            key_norm=norm(shape.head_dim) if shape.qk_norm else None,
            output=empty(shape.hidden, shape.heads * shape.head_dim),
        )

    def delta(net: DeltaNet) -> DeltaWeights:
        return DeltaWeights(
            net=net,
            projection=empty(net.channels + net.value_heads * (net.value_dim + 2), shape.hidden),
            convolution=empty(net.channels, net.kernel),
            log_rate=single(net.value_heads),
            bias=single(net.value_heads),
            norm=empty(net.value_dim),
            output=empty(shape.hidden, net.value_width),
        )

    def feed_forward(ffn: int) -> FeedForward:
        return FeedForward(empty(2 * ffn, shape.hidden), empty(shape.hidden, ffn))

    def mixture(experts: Experts) -> MixtureWeights:
        each = [feed_forward(experts.ffn) for _ in range(experts.count)]
        return MixtureWeights(
            empty(experts.count, shape.hidden), each, empty(1, shape.hidden) if experts.shared_ffn else None
        )

    def layer(number: int) -> LayerWeights:
        net = shape.delta_net if shape.is_linear(number) else None
        experts = shape.experts_of(number)
        common = experts.shared_ffn if experts else shape.ffn
        return LayerWeights(
            input_norm=norm(shape.hidden),
            mixer=delta(net) if net else attention(),
            place=[shape.is_linear(before) for before in range(number)].count(shape.is_linear(number)),
            post_norm=norm(shape.hidden),
            feed_forward=feed_forward(common) if common else None,
            mixture=mixture(experts) if experts else None,
        )

    layers = [layer(number) for number in range(shape.layers)]
    embedding = empty(shape.vocabulary, shape.hidden)
    return Weights(embedding, layers, norm(shape.hidden), embedding if shape.tied else empty(*embedding.shape))
