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
    gate_up: Tensor
    """[2 * ffn, hidden]"""
    down: Tensor
    """[hidden, ffn]"""


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

    heads = shape.heads + 2 * shape.groups
    layers = [
        LayerWeights(
            input_norm=empty(shape.hidden),
            qkv=empty(heads * shape.head_dim, shape.hidden),
            qkv_bias=empty(heads * shape.head_dim) if shape.qkv_bias else None,
            query_norm=empty(shape.head_dim) if shape.qk_norm else None,
            key_norm=empty(shape.head_dim) if shape.qk_norm else None,
            output=empty(shape.hidden, shape.heads * shape.head_dim),
            post_norm=empty(shape.hidden),
            gate_up=empty(2 * shape.ffn, shape.hidden),
            down=empty(shape.hidden, shape.ffn),
        )
        for _ in range(shape.layers)
    ]
    embedding = empty(shape.vocabulary, shape.hidden)
    return Weights(embedding, layers, empty(shape.hidden), embedding if shape.tied else empty(*embedding.shape))


def destinations(weights: Weights, shape: Architecture) -> dict[str, Destination]:
    """Return the destination of every Hugging Face name of the model."""
    places = {"model.embed_tokens.weight": _whole(weights.embedding), "model.norm.weight": _whole(weights.norm)}
    if not shape.tied:
        places["lm_head.weight"] = _whole(weights.head)
    for index, layer in enumerate(weights.layers):
        for name, place in _layer_destinations(layer, shape).items():
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


def _layer_destinations(layer: LayerWeights, shape: Architecture) -> dict[str, Destination]:
    queries, keys = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    gate, up = layer.gate_up.chunk(2)
    places = {
        "input_layernorm.weight": _whole(layer.input_norm),
        "post_attention_layernorm.weight": _whole(layer.post_norm),
        "self_attn.o_proj.weight": _whole(layer.output),
        "mlp.gate_proj.weight": _whole(gate),
        "mlp.up_proj.weight": _whole(up),
        "mlp.down_proj.weight": _whole(layer.down),
    }
    for kind, fused in (("weight", layer.qkv), ("bias", layer.qkv_bias)):
        if fused is not None:
            query, key, value = fused.split([queries, keys, keys])
            places[f"self_attn.q_proj.{kind}"] = _interleaved(query, shape.head_dim)
            places[f"self_attn.k_proj.{kind}"] = _interleaved(key, shape.head_dim)
            places[f"self_attn.v_proj.{kind}"] = _whole(value)
    if layer.query_norm is not None and layer.key_norm is not None:
        places["self_attn.q_norm.weight"] = _interleaved(layer.query_norm, shape.head_dim)
        places["self_attn.k_norm.weight"] = _interleaved(layer.key_norm, shape.head_dim)
    return places


def _whole(parameter: Tensor) -> Destination:
    return Destination(parameter, tuple(parameter.shape))


def _interleaved(parameter: Tensor, head_dim: int) -> Destination:
    """Return a view in Hugging Face's order, [heads, half, pair, ...], of storage in the order [heads, pair, half,
    ...]."""
    pairs = parameter.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2)
    return Destination(pairs, tuple(parameter.shape))
