"""Bytes that a pipeline stage keeps for its backward pass, and what it needs on top while it computes.

Counted from the functions that save them (`policy.modules`, `elementwise`, `policy.recompute`, Megatron's linear
layers); tests hold them to what autograd's hooks see on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from fastsvs.architecture import Architecture
from fastsvs.config import PolicyConfig
from fastsvs.kernels.pieces import CPU, CUDA, cut_rows
from fastsvs.plan.adapters import row_bytes, token_bytes
from fastsvs.plan.layout import Layout
from fastsvs.plan.mixers import (
    FP32,
    INDEX,
    attention_bytes,
    attention_output,
    delta_net_bytes,
    delta_net_gradients,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A rank's tokens of one micro-batch."""

    tokens: int
    predicted: int
    """Number of its tokens that are targets of the head."""
    shares_prompts: bool = False


def largest_row(policy: PolicyConfig, layout: Layout, *, shares_prompts: bool = False) -> Row:
    """Return a rank's share of the largest micro-batch, with all of it taken as targets."""
    tokens = ceil(policy.tokens_per_micro_batch / layout.context)
    return Row(tokens, tokens, shares_prompts)


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of one micro-batch on a rank."""

    kept: float
    """Bytes from its forward to its backward pass."""
    backward: float
    """Bytes on top while the backward pass is in a layer: what is computed again, and gradients."""
    head: float
    """Bytes on top while the last stage computes the loss; 0 elsewhere."""


def activations(architecture: Architecture, policy: PolicyConfig, layout: Layout, stage: int, row: Row) -> Activations:
    """Return what one micro-batch takes on a rank of a stage."""
    layers = layout.layers(architecture)
    again, together = recomputed_layers(policy, layers)
    inside, largest = layer_bytes(architecture, layout, row.shares_prompts)
    between = architecture.hidden * layout.width / layout.sequence
    attention = 0.0
    if policy.recompute == "all_but_attention":
        attention = _attention_share(architecture) * attention_output(architecture, layout, row.shares_prompts)
    kept = (layers - again) * inside + again * attention + (again / together if again else 0) * between
    kept += 2 * (architecture.rotary_dim or architecture.head_dim) * layout.width  # rotary angles of the row
    kept += INDEX if stage == 0 and not architecture.lora else 0  # token ids, for the embedding's gradient
    if stage == layout.pipeline - 1:
        kept += between + FP32 / layout.sequence  # the last norm
    head_rows = row.predicted if stage == layout.pipeline - 1 else 0
    states = head_rows * architecture.hidden * layout.width
    return Activations(
        kept=row.tokens * kept + head_rows * INDEX + (layers - again) * row_bytes(architecture, layout),
        backward=row.tokens * (together * largest + _gradients(architecture, layout))
        + _largest(architecture, layout)
        + states,
        head=head_bytes(architecture, layout, head_rows) + states,
    )


def in_flight(pipeline: int, stage: int, micro_batches: int) -> int:
    """Return the number of micro-batches whose activations a stage keeps at once under Megatron's 1F1B schedule."""
    return min(pipeline - stage, micro_batches)


def recomputed_layers(policy: PolicyConfig, layers: int) -> tuple[int, int]:
    """Return how many of a stage's `layers` are computed again, and how many of them at once."""
    if policy.recompute == "none":
        return 0, 0
    return (policy.recompute_layers, 1) if policy.recompute_method == "block" else (layers, policy.recompute_layers)


def layer_bytes(architecture: Architecture, layout: Layout, shares_prompts: bool = False) -> tuple[float, float]:
    """Return the bytes that a layer saves for each token where nothing is computed again: as a mean over all layers,
    and of the kind of layer that saves most."""
    a, width = architecture, layout.width
    norms = 2 * (a.hidden * width + FP32) / layout.sequence
    inputs = 2 * a.hidden * width / layout.sequence
    gated = _feed_forward(a, layout, 3) * width / layout.tensor
    common = norms + inputs + gated + token_bytes(a, layout)
    attention, share = attention_bytes(a, layout, shares_prompts), _attention_share(a)
    delta_net = delta_net_bytes(a, layout)
    return common + share * attention + (1 - share) * delta_net, common + max(attention * bool(share), delta_net)


def _attention_share(a: Architecture) -> float:
    """Return the share of layers with attention. Stages are taken to have equal shares."""
    return a.attention_layers / a.layers


def _feed_forward(a: Architecture, layout: Layout, widths: int) -> int:
    """Return the values of a token in the feed-forward of a layer, which has `widths` times its width of them, and
    those that experts get and give: each of the ranks that share an expert gets its whole tokens. The load of experts
    is taken as even, and each layer as the one that needs most."""
    if a.experts is None:
        return widths * a.ffn
    whole = 2 * a.experts.active * a.hidden * layout.expert_tensor
    return max(widths * a.ffn, widths * a.experts.active_ffn + whole)


def head_bytes(architecture: Architecture, layout: Layout, rows: int) -> float:
    """Return the bytes that the loss takes for `rows` predicted tokens, as the kernels cut them."""
    if not rows:
        return 0.0
    columns = architecture.padded_vocabulary(layout.tensor) // layout.tensor
    limits, gradient = (CUDA, layout.width) if layout.device == "cuda" else (CPU, FP32)
    groups = cut_rows(rows, columns, FP32, gradient, limits)
    group = max(each[-1].stop - each[0].start for each in groups)
    piece = max(span.stop - span.start for each in groups for span in each)
    sums = group * architecture.hidden * FP32
    return columns * (group * gradient + piece * FP32) + sums + rows * architecture.hidden * layout.width


def _gradients(a: Architecture, layout: Layout) -> float:
    """Return the bytes of gradients alive at once in a layer's backward pass, for each token: of the gated projection,
    and of its input, which is whole on every rank; or of a delta net."""
    return max(
        layout.width * (_feed_forward(a, layout, 2) / layout.tensor + 2 * a.hidden), delta_net_gradients(a, layout)
    )


def _largest(a: Architecture, layout: Layout) -> float:
    """Return the bytes of a layer's largest gradient of a weight, before it is added to the buffer."""
    if a.lora:
        return a.lora.rank * max(a.hidden, a.heads * a.head_dim, a.ffn) * layout.width
    expert = a.experts.ffn / layout.expert_tensor if a.experts else 0
    cut = max(a.experts.shared_ffn if a.experts else 0, a.ffn)
    return 2 * max(cut / layout.tensor, expert) * a.hidden * layout.width
