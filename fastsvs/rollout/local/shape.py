"""What the decoder needs of a Hugging Face config: sizes, variants and rotary frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fastsvs.errors import UserError

SUPPORTED = ("llama", "qwen2", "qwen3")
STATIC_ROPE = ("linear", "llama3", "yarn")
"""Scalings whose frequencies do not depend on the length of the sequence."""


@dataclass(frozen=True, slots=True)
class DecoderShape:
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int
    norm_epsilon: float
    tied: bool
    """The output weight is the embedding."""
    qkv_bias: bool
    qk_norm: bool


def read_shape(hf: PretrainedConfig) -> DecoderShape:
    """Raises UserError for a model that the decoder would compute wrongly."""
    if hf.model_type not in SUPPORTED:
        raise UserError(
            f"the local rollout engine does not know model type {hf.model_type!r}; it knows {', '.join(SUPPORTED)}"
        )
    faults = _unsupported_features(hf)
    if faults:
        raise UserError(f"the local rollout engine does not support this {hf.model_type} model: {'; '.join(faults)}")
    return DecoderShape(
        layers=hf.num_hidden_layers,
        hidden=hf.hidden_size,
        intermediate=hf.intermediate_size,
        heads=hf.num_attention_heads,
        kv_heads=hf.num_key_value_heads,
        head_dim=_head_dim(hf),
        vocabulary=hf.vocab_size,
        max_positions=hf.max_position_embeddings,
        norm_epsilon=hf.rms_norm_eps,
        tied=bool(hf.tie_word_embeddings),
        qkv_bias=hf.model_type == "qwen2",
        qk_norm=hf.model_type == "qwen3",
    )


def rotations(hf: PretrainedConfig) -> Tensor:
    """[max_positions, head_dim / 2] complex64 on the CPU: the factor that turns each pair of a head's dimensions."""
    frequencies, scale = _rotary_frequencies(hf)
    angles = torch.outer(torch.arange(hf.max_position_embeddings, dtype=torch.float32), frequencies)
    return torch.polar(torch.full_like(angles, scale), angles)


def _rotary_frequencies(hf: PretrainedConfig) -> tuple[Tensor, float]:
    rope = hf.rope_parameters
    if rope["rope_type"] != "default":
        return ROPE_INIT_FUNCTIONS[rope["rope_type"]](hf, device=torch.device("cpu"))
    dim = _head_dim(hf)
    return 1.0 / rope["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim), 1.0


def _head_dim(hf: PretrainedConfig) -> int:
    return getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads


def _unsupported_features(hf: PretrainedConfig) -> list[str]:
    faults = [f"{name}=true" for name in ("attention_bias", "mlp_bias") if getattr(hf, name, False)]
    if hf.hidden_act != "silu":
        faults.append(f"hidden_act={hf.hidden_act!r} (only 'silu')")
    if "sliding_attention" in (getattr(hf, "layer_types", None) or ()):
        faults.append("sliding-window attention")
    rope = hf.rope_parameters["rope_type"]
    if rope not in ("default", *STATIC_ROPE):
        faults.append(f"rope_type={rope!r} (only default, {', '.join(STATIC_ROPE)})")
    return faults
