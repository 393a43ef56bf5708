"""The model families that the trainer and the local engine know: what sets each apart, in one table.

A family that computes as these do, under other names or other fields of config.json, is one more line of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of a layer, of which a router chooses some for each token."""

    count: int
    active: int
    """Number of experts that compute a token."""
    ffn: int
    """Feed-forward width of an expert."""
    normalized: bool
    """True where the weights of a token's experts are divided by their sum."""
    shared_ffn: int = 0
    """Feed-forward width of the expert that computes every token, behind a gate of its own; 0 where there is none."""
    naming: str = "qwen"
    """Key in `NAMINGS` of the names of the tensors."""

    @property
    def active_ffn(self) -> int:
        """Return the width of all experts that compute a token, the shared one included."""
        return self.active * self.ffn + self.shared_ffn


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """The gated delta net that stands in some layers in place of attention (see `fastsvs.delta_rule`)."""

    key_heads: int
    """Number of the heads of queries and keys."""
    value_heads: int
    """Number of the heads of values; `value_heads // key_heads` neighbours have the queries and keys of one key
    head."""
    key_dim: int
    """Width of a head of queries or keys."""
    value_dim: int
    """Width of a head of values."""
    kernel: int
    """Number of tokens that the causal convolution sees, the token itself among them."""
    grouped: bool = False
    """True where a checkpoint has two projections, whose rows are grouped by key head: queries, keys, values and gates
    (in_proj_qkvz), step sizes and decays (in_proj_ba). False where it has four: queries, keys and values of all heads
    (in_proj_qkv), gates (in_proj_z), step sizes (in_proj_b) and decays (in_proj_a)."""

    @property
    def key_width(self) -> int:
        """Return the width of the queries of all heads, which is that of the keys."""
        return self.key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Return the width of the values of all heads."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Return the number of channels of the convolution: queries, keys and values, in this order."""
        return 2 * self.key_width + self.value_width

    def products(self, hidden: int) -> int:
        """Return the number of multiplications that a token takes: projections, convolution, and what is read from the
        state, taken back and written there."""
        projections = hidden * (self.channels + 2 * self.value_width + 2 * self.value_heads)
        return projections + self.channels * self.kernel + 3 * self.value_heads * self.key_dim * self.value_dim


@dataclass(frozen=True, slots=True)
class Naming:
    """Names of the tensors of a layer with experts in a checkpoint, without the layer's prefix."""

    block: str
    """Name of the block that holds router and experts."""
    gate: str
    up: str
    down: str

    @property
    def router(self) -> str:
        """Return the name of the router's weight."""
        return f"{self.block}.gate.weight"

    def expert(self, number: int) -> tuple[str, str, str]:
        """Return the names of the weights of an expert: gate, up and down."""
        gate, up, down = (f"{self.block}.experts.{number}.{name}.weight" for name in (self.gate, self.up, self.down))
        return gate, up, down

    def shared(self) -> tuple[str, str, str]:
        """Return the names of the weights of the shared expert: gate, up and down."""
        gate, up, down = (f"{self.block}.shared_expert.{name}.weight" for name in (self.gate, self.up, self.down))
        return gate, up, down

    @property
    def shared_gate(self) -> str:
        """Return the name of the weight of the shared expert's own gate."""
        return f"{self.block}.shared_expert_gate.weight"


DENSE = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
"""Names of the weights of a dense layer's feed-forward in a checkpoint, without the layer's prefix."""
NAMINGS = {
    "qwen": Naming("mlp", "gate_proj", "up_proj", "down_proj"),
    "mixtral": Naming("block_sparse_moe", "w1", "w3", "w2"),
}


@dataclass(frozen=True, slots=True)
class Family:
    """A family, by what it has beyond the decoder that all of them share."""

    qkv_bias: bool = False
    """True where queries, keys and values have a bias."""
    qk_norm: bool = False
    """True where queries and keys are normed, head by head."""
    experts: Callable[[Any], Experts] | None = None
    """Function from the Hugging Face config to the experts; None for a dense model."""
    delta_net: Callable[[Any], DeltaNet] | None = None
    """Function from the Hugging Face config to the gated delta net of some layers; None where all layers have
    attention. A family with it also gates the output of attention, rotates a part of each head, and has weights of
    norms that are added to 1."""


def _qwen2_moe(hf: Any) -> Experts:
    shared = hf.shared_expert_intermediate_size
    return Experts(
        hf.num_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, hf.norm_topk_prob, shared_ffn=shared
    )


def _qwen3_moe(hf: Any) -> Experts:
    return Experts(hf.num_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, hf.norm_topk_prob)


def _qwen3_5_moe(hf: Any) -> Experts:
    shared = hf.shared_expert_intermediate_size
    return Experts(hf.num_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, normalized=True, shared_ffn=shared)


def _mixtral(hf: Any) -> Experts:
    return Experts(
        hf.num_local_experts, hf.num_experts_per_tok, hf.intermediate_size, normalized=True, naming="mixtral"
    )


def _delta_net(hf: Any, *, grouped: bool = False) -> DeltaNet:
    return DeltaNet(
        hf.linear_num_key_heads,
        hf.linear_num_value_heads,
        hf.linear_key_head_dim,
        hf.linear_value_head_dim,
        hf.linear_conv_kernel_dim,
        grouped,
    )


FAMILIES = {
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "llama": Family(),
    "qwen2_moe": Family(qkv_bias=True, experts=_qwen2_moe),
    "qwen3_moe": Family(qk_norm=True, experts=_qwen3_moe),
    "mixtral": Family(experts=_mixtral),
    "qwen3_5_text": Family(qk_norm=True, delta_net=_delta_net),
    "qwen3_5_moe_text": Family(qk_norm=True, experts=_qwen3_5_moe, delta_net=_delta_net),
    "qwen3_next": Family(qk_norm=True, experts=_qwen2_moe, delta_net=partial(_delta_net, grouped=True)),
}
"""Families by the `model_type` of their config.json."""
