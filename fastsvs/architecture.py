"""What trainer and engines need to know of a Hugging Face model: shapes, rotary frequencies, and which layouts fit it.

Supported: the families of `fastsvs.families`, tied or untied, with grouped queries.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from math import isfinite, lcm
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fastsvs import hub
from fastsvs.config import PolicyConfig
from fastsvs.errors import UserError
from fastsvs.families import FAMILIES, DeltaNet, Experts
from fastsvs.kernels.invariant import elementwise
from fastsvs.model_refusals import LINEAR, dense_layers_of, file_of, head_dim_of, reject_unsupported, rotary_dim_of
from fastsvs.shipped import elsewhere
from fastsvs.stored_run import run_around

VOCABULARY_MULTIPLE = 128
KEY_VALUE_HEADS = "key/value heads"


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
    """A decoder with grouped-query attention, SwiGLU and RMSNorm, dense or with a mixture of experts in all or some of
    its layers. In some layers a gated delta net may stand in place of attention."""

    layers: int
    hidden: int
    ffn: int
    """Width of the feed-forward of a dense layer; 0 where all layers have experts, which have their own."""
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
    """Experts of each layer that is not one of `dense_layers`; None for a dense model."""
    lora: Lora | None = None
    """Adapters that alone learn; None where all weights do."""
    delta_net: DeltaNet | None = None
    """Gated delta net of the linear layers; None where all layers have attention."""
    linear_layers: tuple[bool, ...] = ()
    """True for each layer that has the gated delta net, [layers]; empty without one."""
    gated_attention: bool = False
    """True where q_proj has, after the query of each head, as wide a gate, whose sigmoid multiplies the head's
    output."""
    rotary_dim: int | None = None
    """Number of the first dimensions of a head that positions rotate; None where they rotate all."""
    centred_norm: bool = False
    """True where norms multiply by 1 + weight, all but that of the gated delta net's output."""
    dense_layers: tuple[bool, ...] = ()
    """True for each layer of a model with experts that has a dense feed-forward instead, [layers]; empty where none
    has."""

    @classmethod
    def load(cls, values: dict[str, Any]) -> Self:
        """Return the architecture of what `dataclasses.asdict` made of it. Raises TypeError for anything else."""
        experts, lora, delta_net = values.get("experts"), values.get("lora"), values.get("delta_net")
        parts = {
            "experts": experts and Experts(**experts),
            "lora": lora and Lora(**lora | {"targets": tuple(lora["targets"])}),
            "delta_net": delta_net and DeltaNet(**delta_net),
            "linear_layers": tuple(values.get("linear_layers", ())),
            "dense_layers": tuple(values.get("dense_layers", ())),
        }
        return cls(**values | parts)

    def is_linear(self, layer: int) -> bool:
        """Return whether this layer has the gated delta net in place of attention."""
        return bool(self.linear_layers) and self.linear_layers[layer]

    @property
    def attention_layers(self) -> int:
        """Return the number of layers that keep keys and values of each token."""
        return self.layers - sum(self.linear_layers)

    def experts_of(self, layer: int) -> Experts | None:
        """Return the experts of this layer, None where its feed-forward is dense."""
        return None if self.dense_layers and self.dense_layers[layer] else self.experts

    @property
    def expert_layers(self) -> tuple[int, ...]:
        """Return the numbers of the layers with experts."""
        return tuple(layer for layer in range(self.layers) if self.experts_of(layer))

    @property
    def active_ffn(self) -> float:
        """Return the width of all feed-forwards of a layer that compute a token, as a mean over layers."""
        return self._active_widths / self.layers

    @property
    def _active_widths(self) -> int:
        """Return the widths of all feed-forwards that compute a token, of all layers together."""
        of_experts = self.experts.active_ffn if self.experts else 0
        routed = len(self.expert_layers)
        return (self.layers - routed) * self.ffn + routed * of_experts

    @property
    def tensor_sizes(self) -> dict[str, int]:
        """Return what tensor parallelism cuts, by what it is called."""
        found = {"attention heads": self.heads, KEY_VALUE_HEADS: self.groups}
        if self.delta_net:
            found["key heads of linear attention"] = self.delta_net.key_heads
        widths = {
            "feed-forward width": self.ffn,
            "width of the shared expert": self.experts.shared_ffn if self.experts else 0,
        }
        return found | {what: width for what, width in widths.items() if width}

    def padded_vocabulary(self, tensor_parallel: int) -> int:
        """Return the number of rows of the embedding with padding: the same for all usual layouts, so that checkpoints
        move between them."""
        multiple = lcm(VOCABULARY_MULTIPLE, tensor_parallel)
        return -(-self.vocabulary // multiple) * multiple

    def forward_flops(self, tokens: int, predicted: int) -> int:
        """Return the floating-point operations of the forward pass of one sequence of `tokens`, of which `predicted`
        are targets of the head: 2 a token and weight, attention over half the square, and in linear layers three
        products with the state. A backward pass takes twice as many."""
        attention = self.hidden * self.head_dim * ((2 + self.gated_attention) * self.heads + 2 * self.groups)
        router = self.experts.count * self.hidden if self.experts else 0
        matrices = (
            3 * self.hidden * self._active_widths + len(self.expert_layers) * router + self.attention_layers * attention
        )
        if self.delta_net:
            matrices += (self.layers - self.attention_layers) * self.delta_net.products(self.hidden)
        scores = self.attention_layers * self.heads * self.head_dim * tokens
        return 2 * (tokens * (matrices + scores) + predicted * self.hidden * self.vocabulary)


def load_hf_config(path: str) -> PretrainedConfig:
    """Load the model config in the folder or of the hub id `path`; a folder with nothing but config.json will do.
    Raises UserError where none can be read."""
    hub.settle(path)
    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # transformers raises all sorts over what stands in the file
        if run := run_around(Path(path)):
            raise UserError(
                f"model.path={path!r} is of the run {run}, and is no model: `fastsvs export {run} --out FOLDER` makes "
                f"one; a training run begins with its weights by model.from_run={run}"
            ) from error
        raise UserError(
            f"model.path={path!r}: no readable Hugging Face model config; give a folder with config.json "
            f"or the id of a model on the hub ({elsewhere(path, error)})"
        ) from error


def read_architecture(hf: PretrainedConfig) -> Architecture:
    """Read the architecture. Raises UserError for a model that would be computed wrongly, or not at all."""
    family = FAMILIES.get(hf.model_type)
    if family is None:
        said = f"{file_of(hf)}: model type {hf.model_type!r} is not supported; supported: {', '.join(FAMILIES)}"
        if f"{hf.model_type}_text" in FAMILIES:
            said += "; transformers' AutoModelForCausalLM loads its text model and saves it alone with save_pretrained"
        raise UserError(said)
    experts = family.experts(hf) if family.experts else None
    delta_net = family.delta_net(hf) if family.delta_net else None
    reject_unsupported(hf, experts, delta_net)
    _reject_impossible_positions(hf)
    dense_layers = dense_layers_of(hf) if experts else ()
    return Architecture(
        layers=hf.num_hidden_layers,
        hidden=hf.hidden_size,
        ffn=0 if experts and not dense_layers else hf.intermediate_size,
        heads=hf.num_attention_heads,
        groups=hf.num_key_value_heads,
        head_dim=head_dim_of(hf),
        vocabulary=hf.vocab_size,
        max_positions=hf.max_position_embeddings,
        tied=bool(hf.tie_word_embeddings),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        norm_epsilon=hf.rms_norm_eps,
        initializer_range=hf.initializer_range,
        experts=experts,
        delta_net=delta_net,
        linear_layers=tuple(kind == LINEAR for kind in hf.layer_types) if delta_net else (),
        gated_attention=delta_net is not None,
        rotary_dim=rotary_dim_of(hf) if delta_net else None,
        centred_norm=delta_net is not None,
        dense_layers=dense_layers,
    )


def _reject_impossible_positions(hf: PretrainedConfig) -> None:
    try:
        frequencies, scale = rotary_frequencies(hf)
        known = bool(frequencies.isfinite().all()) and isfinite(scale)
    except (ArithmeticError, TypeError, ValueError) as error:  # transformers computes with what stands in the file
        raise UserError(f"{file_of(hf)}: rope_parameters={hf.rope_parameters!r} cannot be computed: {error}") from error
    if not known:
        raise UserError(f"{file_of(hf)}: rope_parameters={hf.rope_parameters!r} give frequencies that are not finite")


def trained_architecture(hf: PretrainedConfig, policy: PolicyConfig) -> Architecture:
    """Return the architecture of a policy of this model, with the adapters that `policy.lora` asks for. Raises
    UserError as `read_architecture` does."""
    return with_adapters(read_architecture(hf), policy)


def with_adapters(architecture: Architecture, policy: PolicyConfig) -> Architecture:
    """Return the architecture with the adapters that `policy.lora` asks for."""
    lora = policy.lora
    return replace(architecture, lora=Lora(lora.rank, lora.alpha, lora.targets) if lora.rank else None)


def rotary_table(hf: PretrainedConfig, positions: int) -> Tensor:
    """Return [2, positions, rotary_dim] fp32 on the CPU: cosine and sine, as transformers computes them."""
    inverse, scale = rotary_frequencies(hf)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse).repeat(1, 2)
    return torch.stack([elementwise(torch.cos, angles), elementwise(torch.sin, angles)]) * scale


def rotary_frequencies(hf: PretrainedConfig) -> tuple[Tensor, float]:
    """Return the frequencies, [rotary_dim / 2] fp32 radians a position on the CPU, and the factor of cosine and
    sine."""
    parameters: dict[str, Any] = hf.rope_parameters
    if parameters["rope_type"] != "default":
        known = copy(hf)
        known.head_dim = head_dim_of(hf)  # where config.json has null, they would multiply by it
        return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](known, device=torch.device("cpu"))
    dim = rotary_dim_of(hf) if FAMILIES[hf.model_type].delta_net else head_dim_of(hf)
    return 1.0 / parameters["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim), 1.0
