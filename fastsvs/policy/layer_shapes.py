"""Names and shapes of the Hugging Face tensors of one layer, without the layer's prefix."""

from __future__ import annotations

from fastsvs.architecture import Architecture
from fastsvs.families import DENSE, NAMINGS, DeltaNet

Shape = tuple[int, ...]


def attention_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Return the shapes of a layer's attention."""
    a = architecture
    width, group = a.heads * a.head_dim, a.groups * a.head_dim
    rows = {"q": 2 * width if a.gated_attention else width, "k": group, "v": group}
    shapes: dict[str, Shape] = {f"self_attn.{name}_proj.weight": (size, a.hidden) for name, size in rows.items()}
    if a.qkv_bias:
        shapes |= {f"self_attn.{name}_proj.bias": (size,) for name, size in rows.items()}
    if a.qk_norm:
        shapes |= {f"self_attn.{name}_norm.weight": (a.head_dim,) for name in "qk"}
    return shapes | {"self_attn.o_proj.weight": (a.hidden, width)}


def delta_net_shapes(hidden: int, delta_net: DeltaNet) -> dict[str, Shape]:
    """Return the shapes of a layer's gated delta net."""
    heads = (delta_net.value_heads,)
    shapes: dict[str, Shape] = {"linear_attn.dt_bias": heads, "linear_attn.A_log": heads}
    shapes["linear_attn.conv1d.weight"] = (delta_net.channels, 1, delta_net.kernel)
    shapes |= {name: (sum(rows), hidden) for name, rows in projections(delta_net).items()}
    shapes["linear_attn.norm.weight"] = (delta_net.value_dim,)
    return shapes | {"linear_attn.out_proj.weight": (hidden, delta_net.value_width)}


def projections(delta_net: DeltaNet) -> dict[str, tuple[int, ...]]:
    """Return the projections of a gated delta net, each with the numbers of rows of its sections. Those that are
    grouped by key head are one section."""
    keys, values, heads = delta_net.key_width, delta_net.value_width, delta_net.value_heads
    sections: dict[str, tuple[int, ...]]
    if delta_net.grouped:
        sections = {"qkvz": (2 * keys + 2 * values,), "ba": (2 * heads,)}
    else:
        sections = {"qkv": (keys, keys, values), "z": (values,), "b": (heads,), "a": (heads,)}
    return {f"linear_attn.in_proj_{name}.weight": rows for name, rows in sections.items()}


def feed_forward_shapes(architecture: Architecture, layer: int) -> dict[str, Shape]:
    """Return the shapes of the feed-forward of this layer, or of its router and experts."""
    hidden, experts = architecture.hidden, architecture.experts_of(layer)

    def gated(names: tuple[str, str, str], ffn: int) -> dict[str, Shape]:
        return dict(zip(names, ((ffn, hidden), (ffn, hidden), (hidden, ffn)), strict=True))

    if experts is None:
        return gated(DENSE, architecture.ffn)
    naming = NAMINGS[experts.naming]
    shapes: dict[str, Shape] = {naming.router: (experts.count, hidden)}
    for number in range(experts.count):
        shapes |= gated(naming.expert(number), experts.ffn)
    if experts.shared_ffn:
        shapes |= gated(naming.shared(), experts.shared_ffn) | {naming.shared_gate: (1, hidden)}
    return shapes
