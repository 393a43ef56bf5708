"""What trainer and engines need to know of a Hugging Face model: shapes, rotary frequencies, and which layouts fit it.

Supported: the families of `fastsvs.families`, tied or untied, with grouped queries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fastsvs import hub
from fastsvs.config import PolicyConfig
from fastsvs.errors import UserError
from fastsvs.families import FAMILIES, Experts
from fastsvs.kernels.invariant import elementwise
from fastsvs.shipped import elsewhere

STATIC_ROPE = ("default", "linear", "llama3", "yarn")
VOCABULARY_MULTIPLE = 128


@dataclass(frozen=True, slots=True)
class Lora:
    """Adapters of low rank beside some projections of every layer, which learn while the weights stay."""

    rank: int
    alpha: float
    targets: tuple[str, ...]
    """Hugging Face names of the projections, in the order of a layer."""

    @property
    def scale(self) -> float:
        """Return the factor of B A."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder with grouped-query attention, SwiGLU and RMSNorm, dense or with a mixture of experts in every layer."""

    layers: int
    hidden: int
    ffn: int
    """Width of the feed-forward of a dense layer; 0 with experts, which have their own."""
    heads: int
    groups: int
    """Number of key/value heads; each serves `heads // groups` query heads."""
    head_dim: int
    vocabulary: int
    max_positions: int
    tied: bool
    """True where the output weight is the embedding."""
    qkv_bias: bool
    qk_norm: bool
    norm_epsilon: float
    initializer_range: float
    experts: Experts | None = None
    """Experts of each layer; None for a dense model."""
    lora: Lora | None = None
    """Adapters that alone learn; None where all weights do."""

    @classmethod
    def load(cls, values: dict[str, Any]) -> Self:
        """Return the architecture of what `dataclasses.asdict` made of it. Raises TypeError for anything else."""
        experts, lora = values.get("experts"), values.get("lora")
        lora = lora and Lora(**lora | {"targets": tuple(lora["targets"])})
        return cls(**values | {"experts": experts and Experts(**experts), "lora": lora})

    @property
    def active_ffn(self) -> int:
        """Return the width of all feed-forwards of a layer that compute a token."""
        experts = self.experts
        return experts.active * experts.ffn + experts.shared_ffn if experts else self.ffn

    @property
    def tensor_sizes(self) -> dict[str, int]:
        """Return what tensor parallelism cuts, by what it is called."""
        width = self.experts.shared_ffn if self.experts else self.ffn
        found = {"attention heads": self.heads, "key/value heads": self.groups}
        return found | ({"feed-forward width": width} if width else {})

    def padded_vocabulary(self, tensor_parallel: int) -> int:
        """Return the number of rows of the embedding with padding: the same for all usual layouts, so that checkpoints
        move between them."""
        multiple = lcm(VOCABULARY_MULTIPLE, tensor_parallel)
        return -(-self.vocabulary // multiple) * multiple

    def forward_flops(self, tokens: int, predicted: int) -> int:
        """Return the floating-point operations of the forward pass of one sequence of `tokens`, of which `predicted`
        are targets of the head: 2 a token and weight, and attention over half the square. A backward pass takes twice
        as many."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.groups)
        router = self.experts.count * self.hidden if self.experts else 0
        matrices = self.layers * (attention + 3 * self.hidden * self.active_ffn + router)
        scores = self.layers * self.heads * self.head_dim * tokens
        return 2 * (tokens * (matrices + scores) + predicted * self.hidden * self.vocabulary)


def load_hf_config(path: str) -> PretrainedConfig:
    """Load the model config in the folder or of the hub id `path`; a folder with nothing but config.json will do.
    Raises UserError where none can be read."""
    hub.settle(path)
    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # transformers raises all sorts over what stands in the file
        raise UserError(
            f"model.path={path!r}: no readable Hugging Face model config; give a folder with config.json "
            f"or the id of a model on the hub ({elsewhere(path, error)})"
        ) from error


def read_architecture(hf: PretrainedConfig) -> Architecture:
    """Read the architecture. Raises UserError for a model that would be computed wrongly, or not at all."""
    family = FAMILIES.get(hf.model_type)
    if family is None:
        raise UserError(
            f"{_file_of(hf)}: model type {hf.model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        )
    _reject_impossible_shapes(hf)
    experts = family.experts(hf) if family.experts else None
    if experts:
        _reject_impossible_experts(hf, experts)
    _reject_unsupported_features(hf)
    return Architecture(
        layers=hf.num_hidden_layers,
        hidden=hf.hidden_size,
        ffn=0 if experts else hf.intermediate_size,
        heads=hf.num_attention_heads,
        groups=hf.num_key_value_heads,
        head_dim=_head_dim(hf),
        vocabulary=hf.vocab_size,
        max_positions=hf.max_position_embeddings,
        tied=bool(hf.tie_word_embeddings),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        norm_epsilon=hf.rms_norm_eps,
        initializer_range=hf.initializer_range,
        experts=experts,
    )


def trained_architecture(hf: PretrainedConfig, policy: PolicyConfig) -> Architecture:
    """Return the architecture of a policy of this model, with the adapters that `policy.lora` asks for. Raises
    UserError as `read_architecture` does."""
    return with_adapters(read_architecture(hf), policy)


def with_adapters(architecture: Architecture, policy: PolicyConfig) -> Architecture:
    """Return the architecture with the adapters that `policy.lora` asks for."""
    lora = policy.lora
    return replace(architecture, lora=Lora(lora.rank, lora.alpha, lora.targets) if lora.rank else None)


def rotary_table(hf: PretrainedConfig, positions: int) -> Tensor:
    """Return [2, positions, head_dim] fp32 on the CPU: cosine and sine, as transformers computes them."""
    inverse, scale = rotary_frequencies(hf)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse).repeat(1, 2)
    return torch.stack([elementwise(torch.cos, angles), elementwise(torch.sin, angles)]) * scale


def rotary_frequencies(hf: PretrainedConfig) -> tuple[Tensor, float]:
    """Return the frequencies, [head_dim / 2] fp32 radians a position on the CPU, and the factor on cosine and sine."""
    parameters: dict[str, Any] = hf.rope_parameters
    if parameters["rope_type"] != "default":
        return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](hf, device=torch.device("cpu"))
    dim = _head_dim(hf)
    return 1.0 / parameters["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim), 1.0


def _head_dim(hf: PretrainedConfig) -> int:
    dim: int | None = getattr(hf, "head_dim", None)
    return hf.hidden_size // hf.num_attention_heads if dim is None else dim


def _reject_impossible_shapes(hf: PretrainedConfig) -> None:
    sizes = {
        name: getattr(hf, name)
        for name in (
            *("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
            *("vocab_size", "max_position_embeddings"),
        )
    }
    faults = [f"{name}={size!r} (at least 1)" for name, size in sizes.items() if type(size) is not int or size < 1]
    if not faults:
        faults += _impossible_heads(hf)
    if not hf.rms_norm_eps > 0:
        faults.append(f"rms_norm_eps={hf.rms_norm_eps!r} (above 0)")
    if not hf.rope_parameters.get("rope_theta", 1) > 0:
        faults.append(f"rope_theta={hf.rope_parameters['rope_theta']!r} (above 0)")
    if faults:
        raise UserError(f"{_file_of(hf)} describes no model that can be built: {'; '.join(faults)}")


def _impossible_heads(hf: PretrainedConfig) -> list[str]:
    heads, groups = hf.num_attention_heads, hf.num_key_value_heads
    faults = []
    if heads % groups:
        faults.append(f"num_key_value_heads={groups} (a divisor of num_attention_heads={heads})")
    if getattr(hf, "head_dim", None) is None and hf.hidden_size % heads:
        faults.append(f"num_attention_heads={heads} (a divisor of hidden_size={hf.hidden_size})")
    elif (dim := _head_dim(hf)) < 2 or dim % 2:
        faults.append(f"head_dim={dim} (even and at least 2)")
    return faults


def _reject_unsupported_features(hf: PretrainedConfig) -> None:
    faults = []
    if getattr(hf, "quantization_config", None):
        faults.append("quantized weights (quantization_config; take the model that it was made from)")
    if hf.hidden_act != "silu":
        faults.append(f"hidden_act={hf.hidden_act!r} (only 'silu')")
    if getattr(hf, "attention_bias", False):
        faults.append("attention_bias=true (only Qwen2's bias on q, k and v)")
    if getattr(hf, "mlp_bias", False):
        faults.append("mlp_bias=true")
    if not getattr(hf, "qkv_bias", True):
        faults.append("qkv_bias=false (Qwen2's models with experts have it)")
    if hf.model_type == "mixtral" and hf.sliding_window:
        faults.append("sliding-window attention (set sliding_window to null)")
    if "sliding_attention" in (getattr(hf, "layer_types", None) or ()):
        faults.append("sliding-window attention (set use_sliding_window to false)")
    if hf.rope_parameters["rope_type"] not in STATIC_ROPE:
        faults.append(f"rope_type={hf.rope_parameters['rope_type']!r} (only {', '.join(STATIC_ROPE)})")
    if faults:
        raise UserError(f"{_file_of(hf)} asks for what the trainer does not support: {'; '.join(faults)}")


def _reject_impossible_experts(hf: PretrainedConfig, experts: Experts) -> None:
    faults = []
    if not all(type(size) is int and size >= 1 for size in (experts.count, experts.ffn)):
        faults.append(f"{experts.count!r} experts of width {experts.ffn!r} (at least 1)")
    elif type(experts.active) is not int or not 1 <= experts.active <= experts.count:
        faults.append(f"num_experts_per_tok={experts.active!r} (1 to the {experts.count} experts of a layer)")
    elif experts.active == 1 and experts.normalized:
        faults.append("num_experts_per_tok=1 with weights divided by their sum (its router has no gradient)")
    if type(experts.shared_ffn) is not int or experts.shared_ffn < 0:
        faults.append(f"shared_expert_intermediate_size={experts.shared_ffn!r} (at least 0)")
    if getattr(hf, "mlp_only_layers", None) or getattr(hf, "decoder_sparse_step", 1) != 1:
        faults.append("dense layers between those with experts (mlp_only_layers, decoder_sparse_step other than 1)")
    if getattr(hf, "router_jitter_noise", 0.0):
        faults.append(f"router_jitter_noise={hf.router_jitter_noise} (only 0)")
    if faults:
        raise UserError(f"{_file_of(hf)} describes experts that the trainer does not support: {'; '.join(faults)}")


def _file_of(hf: PretrainedConfig) -> str:
    return f"config.json of {hf.name_or_path or f'a {hf.model_type} model'}"
