"""Bytes that attention, or a gated delta net in its place, keeps of each token for the backward pass."""

from __future__ import annotations

from fastsvs.architecture import Architecture
from fastsvs.delta_rule import CHUNK
from fastsvs.plan.layout import Layout

FP32, INDEX = 4, 8


def attention_bytes(a: Architecture, layout: Layout, shares_prompts: bool) -> float:
    """Return what a layer with attention keeps between its projections, and the input of the last."""
    output = attention_output(a, layout, shares_prompts)
    return _inputs(a, layout) + output + _head_norms(a, layout) + _gate(a, layout)


def attention_output(a: Architecture, layout: Layout, shares_prompts: bool) -> float:
    """Return the bytes of attention's output and log-sum-exps for each token. A projection that learns keeps its input,
    which is another tensor where context-parallel ranks change from heads to tokens in between, and on a CPU, where
    rows without shared prompts are put together from parts."""
    another = layout.context > 1 or (layout.device == "cpu" and not shares_prompts)
    twice = another and (a.lora is None or "o_proj" in a.lora.targets)
    return a.heads * (a.head_dim * layout.width * (1 + twice) + FP32) / layout.tensor


def delta_net_bytes(a: Architecture, layout: Layout) -> float:
    """Return what a layer with a gated delta net keeps between its projections, and the input of the last, where chunks
    are full. Most of it is fp32, whatever the layer's width (see `fastsvs.delta_rule`)."""
    net, width = a.delta_net, layout.width
    if net is None:
        return 0.0
    heads, keys, values = net.value_heads, net.key_dim, net.value_dim
    if net.grouped:
        projected = (net.channels + net.value_width * (width == FP32)) * width  # copies: gates are made fp32 anyway
    else:
        projected = (net.channels + net.value_width + 2 * heads) * width
    convolved = 2 * net.channels * FP32
    units = (net.channels if width == FP32 else 2 * net.key_width) * FP32 + 2 * net.key_heads * FP32
    squares = 6 * heads * CHUNK * FP32
    vectors = heads * (4 * keys + 2 * (keys + values) + values) * FP32
    states = heads * keys * values * FP32 / CHUNK
    scalars = 8 * heads * FP32
    normed = net.value_width * ((2 + (width < FP32)) * FP32 + 3 * width)
    return (projected + convolved + units + squares + vectors + states + scalars + normed) / layout.tensor + 2 * INDEX


def delta_net_gradients(a: Architecture, layout: Layout) -> float:
    """Return the bytes of gradients alive at once while the system of a chunk is solved backwards, for each token:
    those of queries, keys, their copies with decays and the solution, and of three squares."""
    net = a.delta_net
    if net is None:
        return 0.0
    return net.value_heads * (6 * net.key_dim + 2 * net.value_dim + 3 * CHUNK) * FP32 / layout.tensor


def _inputs(a: Architecture, layout: Layout) -> float:
    """Return the bytes of what was projected and of queries, keys and values, for each token. Context-parallel ranks
    change from tokens to heads in between, of which each needs one of keys and values."""
    projected = a.heads + 2 * a.groups
    if layout.context == 1:
        held = projected + a.heads + a.groups  # values are a view of what was projected
    else:
        held = a.heads + 2 * max(a.groups, layout.tensor * layout.context) + (projected if a.qk_norm else 0)
    return held * a.head_dim * layout.width / layout.tensor


def _gate(a: Architecture, layout: Layout) -> float:
    """Return the bytes of the output gate, which is projected with the queries, of its sigmoid, and of the output
    before it."""
    return 3 * a.gated_attention * a.heads * a.head_dim * layout.width / layout.tensor


def _head_norms(a: Architecture, layout: Layout) -> float:
    """Return the bytes that the norms of queries and keys keep for each token."""
    if not a.qk_norm:
        return 0.0
    copies = a.heads if a.groups > layout.tensor else 0  # queries of one group are a view of what was projected
    copies += a.groups if layout.device == "cuda" else 0  # Liger's norm makes its input contiguous
    return (copies * a.head_dim * layout.width + FP32 * (a.heads + a.groups)) / layout.tensor
