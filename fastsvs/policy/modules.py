"""The parts of a Megatron transformer layer: our own RMSNorm, SwiGLU and rotary attention over packed sequences, or
Transformer Engine's norm, linear layers and attention in their place.

Megatron's local versions refuse sequence parallelism (norm) and packed sequences (attention). Parameters have the same
names in both, so weights and checkpoints do not know of the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from fastsvs.architecture import Architecture
from fastsvs.elementwise import rms_norm, rotate, swiglu
from fastsvs.kernels.invariant import is_batch_invariant
from fastsvs.policy.attention import attend
from fastsvs.policy.context import to_heads, to_tokens
from fastsvs.policy.imports import transformer_engine
from fastsvs.policy.invariant_attention import attend_alone
from fastsvs.policy.linear_attention import LinearSequences, delta_net_spec
from fastsvs.policy.mixture import RoutedLayer, Routing, mixture_spec
from fastsvs.policy.recompute import Kept, keep
from fastsvs.policy.shared_attention import SharedPrompts, attend_shared


@dataclass
class PackedSequences(PackedSeqParams):
    """The sequences of a packed row, and the rotary angles of this rank's tokens of it, which are all without context
    parallelism."""

    qkv_format: str = "thd"
    lengths: Sequence[int] = ()
    """Length of each sequence in tokens, [sequences] in row order; equal lengths side by side run fastest on a CPU. A
    shared prompt is one of them, and so is each of its responses."""
    bounds: Tensor = None  # type: ignore[assignment]
    """Start of each sequence in the row, then the end of the row, [sequences + 1] int32."""
    rotary: Tensor = None  # type: ignore[assignment]
    """Cosine and sine at the position of each of this rank's tokens, [2, tokens, rotary_dim] in the model's dtype."""
    shared: SharedPrompts | None = None
    """The prompts that several of the sequences continue; None where each sequence stands for itself."""
    linear: LinearSequences | None = None
    """The same sequences as linear attention computes them; None for a model without it."""
    routing: Routing | None = None
    """Routing of the row's tokens to experts; None for a dense model."""
    kept: dict[int, Kept] | None = None
    """Attention of each layer that the recomputation takes from the first pass, by layer number; None where it computes
    attention again."""


@dataclass(frozen=True, slots=True)
class LayerParts:
    """The parts of a layer that backends differ in."""

    norm: type
    column_parallel: type
    row_parallel: type
    attention: type


def block_spec(
    architecture: Architecture, layers: range, parts: LayerParts, *, grouped: bool
) -> TransformerBlockSubmodules:
    """Return the specification of one pipeline stage's decoder, which has these `layers` of the whole. Its experts
    compute in `grouped` products, or one after another."""
    specs = [_layer_spec(architecture, number, parts, grouped=grouped) for number in layers]
    return TransformerBlockSubmodules(layer_specs=specs, layer_norm=parts.norm)


def _layer_spec(architecture: Architecture, number: int, parts: LayerParts, *, grouped: bool) -> ModuleSpec:
    layer = get_gpt_layer_local_spec(qk_layernorm=architecture.qk_norm, normalization="RMSNorm")
    modules = layer.submodules
    modules.input_layernorm = modules.pre_mlp_layernorm = parts.norm
    projections = MLPSubmodules(linear_fc1=parts.column_parallel, linear_fc2=parts.row_parallel)
    if architecture.experts_of(number):
        layer.module, modules.mlp = RoutedLayer, mixture_spec(projections, grouped=grouped)
    else:
        modules.mlp = type("SwiGLU", (SwiGLU,), {"projections": projections})
    if architecture.delta_net and architecture.is_linear(number):
        modules.self_attention = delta_net_spec(architecture.delta_net, parts.column_parallel, parts.row_parallel)
        return layer
    attention = modules.self_attention.submodules
    attention.linear_qkv, attention.linear_proj = parts.column_parallel, parts.row_parallel
    attention.core_attention = parts.attention
    if architecture.qk_norm:
        attention.q_layernorm = attention.k_layernorm = parts.norm
    return layer


def layer_parts(backend: str) -> LayerParts:
    """Return the parts of `policy.backend`. Raises UserError for Transformer Engine where it does not import."""
    if backend == "local":
        return LayerParts(RMSNorm, ColumnParallelLinear, RowParallelLinear, RotaryPackedAttention)
    te = transformer_engine()
    return LayerParts(te.TENorm, te.TEColumnParallelLinear, te.TERowParallelLinear, RotaryEngineAttention)


class RMSNorm(nn.Module):
    """RMSNorm whose weight is marked when it works on a part of the sequence (sequence parallelism)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float, **_: Any) -> None:
        super().__init__()
        device = "cpu" if config.use_cpu_initialization else torch.cuda.current_device()
        self.eps = eps
        self.centred = config.layernorm_zero_centered_gamma
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        # Each tensor-parallel rank sees a part of the sequence: Megatron then sums this gradient over the ranks.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, centred=self.centred)


class SwiGLU(MLP):
    """Gated MLP down(silu(gate(x)) * up(x)); `linear_fc1` gives [gate, up]."""

    projections: MLPSubmodules
    """Linear layers, which a subclass names, as Megatron builds a class without more than its configuration."""

    def __init__(self, config: TransformerConfig, **_: Any) -> None:
        super().__init__(config, self.projections, ffn_hidden_size=config.ffn_hidden_size)

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        gate_up, _bias = self.linear_fc1(hidden_states)
        return self.linear_fc2(swiglu(gate_up))


class RotaryPackedAttention(nn.Module):
    """Causal attention inside each packed sequence and to the prompt that it continues, with rotary positions applied
    to queries and keys."""

    def __init__(self, config: TransformerConfig, layer_number: int, **_: Any) -> None:
        super().__init__()
        self.layer_number = layer_number

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,
        *,
        packed_seq_params: PackedSequences,
        **_: Any,
    ) -> Tensor:
        """Return the attention output [tokens, heads * head_dim] of `query` [tokens, heads, head_dim] and of `key` and
        `value` [tokens, groups, head_dim], for this rank's tokens."""
        sequences = packed_seq_params
        inputs = to_heads(*rotate(query, key, sequences.rotary), value)
        usual = attend_shared if sequences.shared else attend
        attention = partial(attend_alone if is_batch_invariant() else usual, packing=sequences)
        if sequences.kept is None:
            return to_tokens(attention(*inputs)).flatten(1)
        return to_tokens(keep(attention, inputs, sequences.kept, self.layer_number)).flatten(1)


class RotaryEngineAttention(nn.Module):
    """The same attention by Transformer Engine, which chooses among its own implementations."""

    def __init__(self, config: TransformerConfig, **options: Any) -> None:
        super().__init__()
        self.inner = transformer_engine().TEDotProductAttention(config=config, **options)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,
        *,
        packed_seq_params: PackedSequences,
        **_: Any,
    ) -> Tensor:
        """Return what `RotaryPackedAttention` returns of the same arguments."""
        bounds, longest = packed_seq_params.bounds, max(packed_seq_params.lengths)
        sequences = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        )
        query, key = rotate(query, key, packed_seq_params.rotary)
        causal = AttnMaskType.causal
        return self.inner(query, key, value, None, attn_mask_type=causal, packed_seq_params=sequences)
