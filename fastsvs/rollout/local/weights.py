"""The decoder's parameters, fused for few large GEMMs, and the way Hugging Face tensors come into them.

Each Hugging Face name has a destination: a view of a fused parameter. The rows of every query and key head are stored
with the two halves interleaved, so that a rotary pair lies side by side and is turned as one complex number; scores
do not change, because queries and keys are permuted alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.families import DENSE, NAMINGS, Experts


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
class LayerWeights:
    """Parameters of one layer."""

    input_norm: Tensor
    """[hidden]"""
    qkv: Tensor
    """[(heads + 2 groups) * head_dim, hidden]"""
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    """[head_dim]"""
    key_norm: Tensor | None
    """[head_dim]"""
    output: Tensor
    """[hidden, heads * head_dim]"""
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


@dataclass(frozen=True, slots=True)
class Destination:
    """Place of one Hugging Face tensor in the fused parameters."""

    view: Tensor
    """View of a fused parameter; its shape is the source's, reshaped."""
    shape: tuple[int, ...]
    """Shape of the Hugging Face tensor."""


def allocate(shape: Architecture, dtype: torch.dtype, device: torch.device) -> Weights:
    """Allocate uninitialised parameters."""

    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device=device)

    def feed_forward(ffn: int) -> FeedForward:
        return FeedForward(empty(2 * ffn, shape.hidden), empty(shape.hidden, ffn))

    def mixture(experts: Experts) -> MixtureWeights:
        each = [feed_forward(experts.ffn) for _ in range(experts.count)]
        return MixtureWeights(
            empty(experts.count, shape.hidden), each, empty(1, shape.hidden) if experts.shared_ffn else None
        )

    heads, common = shape.heads + 2 * shape.groups, shape.experts.shared_ffn if shape.experts else shape.ffn
    layers = [
        LayerWeights(
            input_norm=empty(shape.hidden),
            qkv=empty(heads * shape.head_dim, shape.hidden),
            qkv_bias=empty(heads * shape.head_dim) if shape.qkv_bias else None,
            query_norm=empty(shape.head_dim) if shape.qk_norm else None,
            key_norm=empty(shape.head_dim) if shape.qk_norm else None,
            output=empty(shape.hidden, shape.heads * shape.head_dim),
            post_norm=empty(shape.hidden),
            feed_forward=feed_forward(common) if common else None,
            mixture=mixture(shape.experts) if shape.experts else None,
        )
        for _ in range(shape.layers)
    ]
    embedding = empty(shape.vocabulary, shape.hidden)
    return Weights(embedding, layers, empty(shape.hidden), embedding if shape.tied else empty(*embedding.shape))


def destinations(weights: Weights, shape: Architecture, *, as_trained: bool = False) -> dict[str, Destination]:
    """Return the destination of every Hugging Face name of the model. With `as_trained` queries, keys and values lie as
    in the trainer's fused parameters: the heads of each group together, and no halves interleaved."""
    places = {"model.embed_tokens.weight": _whole(weights.embedding), "model.norm.weight": _whole(weights.norm)}
    if not shape.tied:
        places["lm_head.weight"] = _whole(weights.head)
    for index, layer in enumerate(weights.layers):
        for name, place in _layer_destinations(layer, shape, as_trained).items():
            places[f"model.layers.{index}.{name}"] = place
    return places


def load(places: dict[str, Destination], tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Copy the tensors into their places. Reads `tensors` to its end in any case, as it may be a collective of several
    processes.

    Raises UserError with all names that are unknown, missing, given twice or of the wrong shape.
    """
    faults, missing = [], set(places)
    for name, tensor in tensors:
        place = places.get(name)
        if place is None:
            faults.append(f"{name}: the model has no such weight")
        elif name not in missing:
            faults.append(f"{name}: given twice")
        elif tuple(tensor.shape) != place.shape:
            faults.append(f"{name}: shape {list(tensor.shape)}, the model's is {list(place.shape)}")
        else:
            place.view.copy_(tensor.reshape(place.view.shape))
        missing.discard(name)
    faults += [f"{name}: missing" for name in places if name in missing]
    if faults:
        raise UserError("these weights do not fit the rollout engine's model:\n  " + "\n  ".join(faults))


def _layer_destinations(layer: LayerWeights, shape: Architecture, as_trained: bool) -> dict[str, Destination]:
    places = {
        "input_layernorm.weight": _whole(layer.input_norm),
        "post_attention_layernorm.weight": _whole(layer.post_norm),
        "self_attn.o_proj.weight": _whole(layer.output),
    } | _feed_forward_destinations(layer, shape.experts)
    for kind, fused in (("weight", layer.qkv), ("bias", layer.qkv_bias)):
        if fused is not None:
            found = _grouped(fused, shape) if as_trained else _apart(fused, shape)
            for name, place in zip(("q_proj", "k_proj", "v_proj"), found, strict=True):
                places[f"self_attn.{name}.{kind}"] = place
    for name, norm in (("q_norm", layer.query_norm), ("k_norm", layer.key_norm)):
        if norm is not None:
            place = _whole(norm) if as_trained else _interleaved(norm, shape.head_dim)
            places[f"self_attn.{name}.weight"] = place
    return places


def _apart(fused: Tensor, shape: Architecture) -> list[Destination]:
    """Return the places of queries, keys and values one after another, the first two with halves interleaved."""
    queries, keys = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    query, key, value = fused.split([queries, keys, keys])
    return [_interleaved(query, shape.head_dim), _interleaved(key, shape.head_dim), _whole(value)]


def _grouped(fused: Tensor, shape: Architecture) -> list[Destination]:
    """Return the places of queries, keys and values in the order of `policy.mapping`: the query heads of each group,
    its key, its value."""
    share = shape.heads // shape.groups
    grouped = fused.unflatten(0, (shape.groups, share + 2, shape.head_dim))
    parts = grouped[:, :share], grouped[:, share], grouped[:, share + 1]
    return [Destination(part, (part.numel() // fused[0].numel(), *fused.shape[1:])) for part in parts]


def _feed_forward_destinations(layer: LayerWeights, experts: Experts | None) -> dict[str, Destination]:
    def gated(names: tuple[str, str, str], weights: FeedForward) -> dict[str, Destination]:
        gate, up = weights.gate_up.chunk(2)
        return dict(zip(names, map(_whole, (gate, up, weights.down)), strict=True))

    if experts is None or layer.mixture is None:
        assert layer.feed_forward is not None
        return gated(DENSE, layer.feed_forward)
    naming, mixture = NAMINGS[experts.naming], layer.mixture
    places = {naming.router: _whole(mixture.router)}
    for number, expert in enumerate(mixture.experts):
        places |= gated(naming.expert(number), expert)
    if layer.feed_forward is not None and mixture.shared_gate is not None:
        places |= gated(naming.shared(), layer.feed_forward)
        places[naming.shared_gate] = _whole(mixture.shared_gate)
    return places


def _whole(parameter: Tensor) -> Destination:
    return Destination(parameter, tuple(parameter.shape))


def _interleaved(parameter: Tensor, head_dim: int) -> Destination:
    """Return a view in Hugging Face's order, [heads, half, pair, ...], of storage in the order [heads, pair, half,
    ...]."""
    pairs = parameter.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2)
    return Destination(pairs, tuple(parameter.shape))
