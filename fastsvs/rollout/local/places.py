"""The way Hugging Face tensors come into the decoder's fused parameters.

Each Hugging Face name has a destination: views of a fused parameter. The rows of every query and key head are stored
with the two halves interleaved, so that a rotary pair lies side by side and is turned as one complex number; scores
do not change, because queries and keys are permuted alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.families import DENSE, NAMINGS, Experts
from fastsvs.rollout.local.weights import AttentionWeights, DeltaWeights, FeedForward, LayerWeights, Weights


@dataclass(frozen=True, slots=True)
class Destination:
    """Place of one Hugging Face tensor in the fused parameters."""

    views: tuple[Tensor, ...]
    """Views of fused parameters, which take each head's rows of the source in this order, reshaped."""
    shape: tuple[int, ...]
    """Shape of the Hugging Face tensor."""
    heads: int = 1
    """Number of heads that the source's rows are of; it matters where there are several views."""
    offset: float = 0.0
    """Number to add to the source."""

    def fill(self, source: Tensor) -> None:
        """Copy `source` into the views."""
        sizes = [view.numel() // self.heads for view in self.views]
        for view, piece in zip(self.views, source.reshape(self.heads, -1).split(sizes, dim=1), strict=True):
            view.copy_(piece.reshape(view.shape))
            if self.offset:
                view += self.offset


def destinations(weights: Weights, shape: Architecture, *, as_trained: bool = False) -> dict[str, Destination]:
    """Return the destination of every Hugging Face name of the model. With `as_trained` queries, keys and values lie as
    in the trainer's fused parameters: the heads of each group together, and no halves interleaved."""
    places = {"model.embed_tokens.weight": _whole(weights.embedding), "model.norm.weight": _norm(weights.norm, shape)}
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
            place.fill(tensor)
        missing.discard(name)
    faults += [f"{name}: missing" for name in places if name in missing]
    if faults:
        raise UserError("these weights do not fit the rollout engine's model:\n  " + "\n  ".join(faults))


def _layer_destinations(layer: LayerWeights, shape: Architecture, as_trained: bool) -> dict[str, Destination]:
    places = {
        "input_layernorm.weight": _norm(layer.input_norm, shape),
        "post_attention_layernorm.weight": _norm(layer.post_norm, shape),
    } | _feed_forward_destinations(layer, shape.experts)
    if isinstance(layer.mixer, AttentionWeights):
        return places | _attention_destinations(layer.mixer, shape, as_trained)
    return places | _delta_destinations(layer.mixer, shape.hidden)


def _attention_destinations(weights: AttentionWeights, shape: Architecture, as_trained: bool) -> dict[str, Destination]:
    places = {"self_attn.o_proj.weight": _whole(weights.output)}
    for kind, fused in (("weight", weights.qkv), ("bias", weights.qkv_bias)):
        if fused is not None:
            found = _grouped(fused, shape) if as_trained else _apart(fused, shape)
            for name, place in zip(("q_proj", "k_proj", "v_proj"), found, strict=True):
                places[f"self_attn.{name}.{kind}"] = place
    for name, norm in (("q_norm", weights.query_norm), ("k_norm", weights.key_norm)):
        if norm is not None:
            views = (norm,) if as_trained else _interleaved(norm, shape)
            places[f"self_attn.{name}.weight"] = replace(_norm(norm, shape), views=views)
    return places


def _apart(fused: Tensor, shape: Architecture) -> list[Destination]:
    """Return the places of queries, keys and values one after another, the first two with halves interleaved. Behind
    the values lie the gates, which come with the queries, head by head."""
    queries, keys = shape.heads * shape.head_dim, shape.groups * shape.head_dim
    query, key, value, gate = fused.split([queries, keys, keys, len(fused) - queries - 2 * keys])
    gates = (gate,) if len(gate) else ()
    return [
        Destination((*_interleaved(query, shape), *gates), (queries + len(gate), *fused.shape[1:]), shape.heads),
        Destination(_interleaved(key, shape), tuple(key.shape), shape.groups),
        _whole(value),
    ]


def _interleaved(parameter: Tensor, shape: Architecture) -> tuple[Tensor, ...]:
    """Return views in Hugging Face's order, [heads, half, pair, ...], of storage in the order [heads, pair, half,
    ...], and [heads, rest, ...] of what rotary positions leave as it is."""
    heads = parameter.unflatten(0, (-1, shape.head_dim))
    turned, rest = heads.tensor_split((shape.rotary_dim or shape.head_dim,), dim=1)
    pairs = turned.unflatten(1, (-1, 2)).transpose(1, 2)
    return (pairs, rest) if rest.numel() else (pairs,)


def _grouped(fused: Tensor, shape: Architecture) -> list[Destination]:
    """Return the places of queries, keys and values in the order of `policy.mapping`: the query heads of each group,
    its key, its value."""
    share = shape.heads // shape.groups
    grouped = fused.unflatten(0, (shape.groups, share + 2, shape.head_dim))
    parts = grouped[:, :share], grouped[:, share], grouped[:, share + 1]
    return [Destination((part,), (part.numel() // fused[0].numel(), *fused.shape[1:])) for part in parts]


def _delta_destinations(weights: DeltaWeights, hidden: int) -> dict[str, Destination]:
    net = weights.net
    keys, values = net.key_width, net.value_width
    mixed, gate, step, decay = weights.projection.split([net.channels, values, net.value_heads, net.value_heads])
    if net.grouped:
        parts = (*mixed.split([keys, keys, values]), gate)
        projections = {
            "in_proj_qkvz": Destination(parts, (net.channels + values, hidden), net.key_heads),
            "in_proj_ba": Destination((step, decay), (2 * net.value_heads, hidden), net.key_heads),
        }
    else:
        projections = {
            "in_proj_qkv": _whole(mixed),
            "in_proj_z": _whole(gate),
            "in_proj_b": _whole(step),
            "in_proj_a": _whole(decay),
        }
    places = projections | {"norm": _whole(weights.norm), "out_proj": _whole(weights.output)}
    return {f"linear_attn.{name}.weight": place for name, place in places.items()} | {
        "linear_attn.conv1d.weight": Destination((weights.convolution,), (net.channels, 1, net.kernel)),
        "linear_attn.A_log": _whole(weights.log_rate),
        "linear_attn.dt_bias": _whole(weights.bias),
    }


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
    return Destination((parameter,), tuple(parameter.shape))


def _norm(parameter: Tensor, shape: Architecture) -> Destination:
    return Destination((parameter,), tuple(parameter.shape), offset=1.0 if shape.centred_norm else 0.0)
