"""A layer of experts as the policy has it, and the sum of its products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Qwen3MoeConfig

from fastsvs import distributed
from fastsvs.architecture import Architecture, read_architecture
from fastsvs.config import PolicyConfig
from fastsvs.policy.expert_load import Routings
from fastsvs.policy.mixture import settle_experts
from fastsvs.policy.model import DTYPES, transformer_config
from fastsvs.policy.modules import block_spec, layer_parts
from fastsvs.policy.parallel import initialize_model_parallel, megatron_device

GRADIENT = 1e-2
"""Size of the gradient of the layer's output."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One layer and the tokens that it computes at once."""

    name: str
    hidden: int
    ffn: int
    experts: int
    active: int
    tokens: int

    @property
    def flop(self) -> float:
        """Return the FLOP of a forward pass through the experts; the router's are left out. A backward pass takes twice
        as many."""
        return 2.0 * self.tokens * self.active * 3 * self.hidden * self.ffn

    @property
    def architecture(self) -> Architecture:
        """Return a model of one such layer."""
        return read_architecture(
            Qwen3MoeConfig(
                hidden_size=self.hidden,
                intermediate_size=self.ffn,
                moe_intermediate_size=self.ffn,
                num_experts=self.experts,
                num_experts_per_tok=self.active,
                norm_topk_prob=True,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                head_dim=self.hidden,
                vocab_size=128,
            )
        )


class Layer:
    """The router and the experts of one layer, with random weights."""

    def __init__(self, shape: Shape, dtype: str, *, grouped: bool) -> None:
        self._architecture, config = shape.architecture, PolicyConfig(dtype=dtype)
        [spec] = block_spec(self._architecture, [0], layer_parts(config.backend), grouped=grouped).layer_specs
        experts = spec.submodules.mlp
        with megatron_device():
            initialize_model_parallel(config)
            settings = transformer_config(self._architecture, config)
            self._layer: nn.Module = experts.module(settings, experts.submodules, layer_number=1)
            for _, parameter in sorted(self._layer.named_parameters()):  # ways of computing have orders of their own
                nn.init.normal_(parameter, std=shape.hidden**-0.5)
            self._layer.to(distributed.device(), DTYPES[dtype])
            settle_experts(self._layer)
        generator = torch.Generator(distributed.device()).manual_seed(0)
        drawn = torch.randn(shape.tokens, 1, shape.hidden, generator=generator, device=distributed.device())
        self._tokens = drawn.to(DTYPES[dtype]).requires_grad_()

    def forward(self) -> Tensor:
        """Return what the layer makes of its tokens, [tokens, 1, hidden]."""
        with megatron_device():
            routings = Routings(self._architecture, len(self._tokens), self._tokens.device)
            self._layer.router.row_routing = routings.of_row(len(self._tokens), len(self._tokens))
            return self._layer(self._tokens)[0]

    def both(self) -> Sequence[Tensor]:
        """Return the gradients of tokens and parameters."""
        output = self.forward()
        with megatron_device():
            leaves = [self._tokens, *self._layer.parameters()]
            return torch.autograd.grad(output, leaves, torch.full_like(output, GRADIENT), allow_unused=True)


def products(shape: Shape, dtype: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return the products of a forward pass, as one for each matrix of an expert, and those of both passes."""
    device, rows = distributed.device(), shape.tokens * shape.active
    generator = torch.Generator(device).manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, device=device).to(DTYPES[dtype])

    x, inner, gated = draw(rows, shape.hidden), draw(rows, shape.ffn), draw(rows, 2 * shape.ffn)
    gate_up, down = draw(2 * shape.ffn, shape.hidden), draw(shape.hidden, shape.ffn)

    def forward() -> list[Tensor]:
        return [x @ gate_up.t(), inner @ down.t()]

    def both() -> list[Tensor]:
        return [*forward(), x @ down, gated @ gate_up, x.t() @ inner, gated.t() @ x]

    return forward, both
