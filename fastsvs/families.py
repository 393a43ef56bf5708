"""The model families that the trainer and the local engine know: what sets each apart, in one table.

A family that computes as these do, under other names or other fields of config.json, is one more line of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


def _qwen2_moe(hf: Any) -> Experts:
    shared = hf.shared_expert_intermediate_size
    return Experts(
        hf.num_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, hf.norm_topk_prob, shared_ffn=shared
    )


def _qwen3_moe(hf: Any) -> Experts:
    return Experts(hf.num_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, hf.norm_topk_prob)


def _mixtral(hf: Any) -> Experts:
    return Experts(
        hf.num_local_experts, hf.num_experts_per_tok, hf.intermediate_size, normalized=True, naming="mixtral"
    )


FAMILIES = {
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(qk_norm=True),
    "llama": Family(),
    "qwen2_moe": Family(qkv_bias=True, experts=_qwen2_moe),
    "qwen3_moe": Family(qk_norm=True, experts=_qwen3_moe),
    "mixtral": Family(experts=_mixtral),
}
"""Families by the `model_type` of their config.json."""
