"""Bytes that a layer with adapters saves otherwise than one without (`policy.adapters`)."""

from __future__ import annotations

from fastsvs.architecture import Architecture
from fastsvs.plan.layout import Layout

FUSED = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
"""Projections that Megatron computes as one, in the order of a layer."""


def token_bytes(a: Architecture, layout: Layout) -> float:
    """Return the bytes for each token: products with A, less the inputs of layers without adapters, as a frozen layer
    keeps none."""
    if a.lora is None:
        return 0.0
    width, targets = layout.width, a.lora.targets
    queries, output, gated, down = ([name for name in names if name in targets] for names in FUSED)
    whole, scattered = len(queries) + len(gated), len(output) + len(down)
    products = a.lora.rank * width * (whole + scattered / layout.sequence)
    unkept = a.hidden * width / layout.sequence * ((not queries) + (not gated))
    return products - unkept - (not down) * a.active_ffn * width / layout.tensor


def row_bytes(a: Architecture, layout: Layout) -> float:
    """Return the bytes for each row: A and B of every layer that Megatron computes as one, put together."""
    if a.lora is None:
        return 0.0
    heads, keys, ffn = (size // layout.tensor for size in (a.heads * a.head_dim, a.groups * a.head_dim, a.active_ffn))
    ends = (a.hidden + heads + 2 * keys, heads + a.hidden, a.hidden + 2 * ffn, ffn + a.hidden)
    counts = [sum(name in a.lora.targets for name in names) for names in FUSED]
    return a.lora.rank * layout.width * sum(count * size for count, size in zip(counts, ends, strict=True))
