"""Mixture of experts in Megatron's layer: its dispatcher and experts, and a router of our own on top of its router.

Each row brings its `Routing`. The router writes there what it did with the row's tokens. Megatron calls a layer again
to compute it again, maybe after other rows, so nothing about a row may lie in the router itself. No token is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.moe.experts import SequentialMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.moe_utils import (
    MoEAuxLossAutoScaler,
    compute_routing_scores_for_aux_loss,
    topk_routing_with_score_function,
)
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from fastsvs import distributed
from fastsvs.config import PolicyConfig
from fastsvs.families import Experts
from fastsvs.policy.experts import GroupedExperts


@dataclass(slots=True)
class Routing:
    """Routing of this rank's tokens of one row to experts: of all of them without context parallelism."""

    tokens: int
    """Number of the tokens without padding, which stands at the end."""
    share: float
    """Share of the pass's tokens that are the whole row's."""
    counts: Tensor
    """Number of tokens of the row that each expert computes, [layers, experts] int64, as this rank sees them: layers
    with experts of its stage, and tokens of its part of the sequence."""
    aux_losses: Tensor
    """Auxiliary loss of each layer without its coefficient, [layers] fp32, as this rank sees it; 0 where there is
    none."""
    replay: Tensor | None = None
    """Experts that are to compute the tokens, [layers, tokens, active] int64, -1 where the router
    chooses; None where it always does."""

    def padding(self, first: int, count: int, device: torch.device) -> Tensor:
        """Return which of the `count` tokens from `first` on are padding, [count] bool."""
        return torch.arange(first, first + count, device=device) >= self.tokens


class RoutedLayer(TransformerLayer):
    """Transformer layer that hands its router the routing of the row."""

    def forward(self, *args: Any, **options: Any) -> Any:
        """Run the layer on the row of `packed_seq_params`."""
        self.mlp.router.row_routing = options["packed_seq_params"].routing
        return super().forward(*args, **options)


class Router(TopKRouter):
    """Router that takes the experts with the largest logits, in fp32."""

    row_routing: Routing
    place: int
    """Number of its layer among those of the stage that have experts."""

    def gating(self, input: Tensor) -> Tensor:
        """Return the logits [tokens, 1, experts] fp32 of `input` [tokens, 1, hidden]."""
        return F.linear(input.float(), self.weight.float())

    def routing(self, logits: Tensor, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weight of each expert for each token, [tokens, experts] fp32, and which experts compute it,
        [tokens, experts] bool. Tokens are those of this rank's part of the sequence."""
        logits = logits.view(-1, self.num_experts)
        row = self.row_routing
        first = self.tp_group.rank() * len(logits) if self.config.sequence_parallel else 0
        padding = row.padding(first, len(logits), logits.device)
        given = None if row.replay is None else Given(row.replay[self.place, first : first + len(logits)])
        weights, chosen = topk_routing_with_score_function(
            logits, self.topk, use_pre_softmax=self.config.moe_router_pre_softmax, router_replay=given
        )
        row.counts[self.place] = (chosen & ~padding[:, None]).sum(0)
        if self.config.moe_aux_loss_coeff and torch.is_grad_enabled() and row.share:  # or no rank has tokens
            even, scores = compute_routing_scores_for_aux_loss(
                logits, self.topk, self.score_function, padding_mask=padding
            )
            weights = self._apply_aux_loss(weights, scores, even, with_padding_mask=True)
        return weights, chosen

    def attach_and_log_load_balancing_loss(
        self, activation: Tensor, aux_loss_coeff: float, aux_loss: Tensor, *_: Any, **__: Any
    ) -> Tensor:
        """Add the loss of the row's tokens to the objective, weighted by their share of the update's."""
        row = self.row_routing
        row.aux_losses[self.place] = aux_loss.detach() / aux_loss_coeff
        return MoEAuxLossAutoScaler.apply(activation, aux_loss * row.share)


@dataclass(frozen=True, slots=True)
class Given:
    """Experts that are given, where Megatron's routing asks for the largest scores. Their weights are made of the
    router's own scores, so that it goes on to learn. Megatron's `RouterReplay` does the same with lists that are kept
    beside the passes, in their order."""

    experts: Tensor
    """Numbers of the experts, [tokens, active] int64, -1 where the largest scores are taken."""

    def get_replay_topk(
        self, scores: Tensor, topk: int, num_groups: None, group_topk: None, largest: Any
    ) -> tuple[Tensor, Tensor]:
        """Return scores and numbers of each token's experts, [tokens, active], of the `scores` [tokens, experts]."""
        _, own = largest(scores, topk, num_groups, group_topk)
        experts = self.experts.where(self.experts >= 0, own)
        return scores.gather(1, experts), experts


def mixture_spec(projections: MLPSubmodules, *, grouped: bool) -> ModuleSpec:
    """Return the specification of a layer's experts and router, with these linear layers. `grouped` experts compute in
    grouped products, others one after another."""
    return ModuleSpec(
        module=MoELayer,
        submodules=MoESubmodules(
            experts=ModuleSpec(module=GroupedExperts if grouped else SequentialMLP, submodules=projections),
            shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=projections),
            router=Router,
        ),
    )


def mixture_settings(experts: Experts, config: PolicyConfig) -> dict[str, Any]:
    """Return the part of Megatron's configuration that is about experts."""
    return {
        "num_moe_experts": experts.count,
        "moe_ffn_hidden_size": experts.ffn,
        "moe_router_topk": experts.active,
        # Softmax over the chosen logits alone is the softmax over all of them, divided by the sum over the chosen.
        "moe_router_pre_softmax": not experts.normalized,
        "moe_router_load_balancing_type": "aux_loss" if config.aux_loss_coefficient else "none",
        "moe_aux_loss_coeff": config.aux_loss_coefficient,
        "moe_router_dtype": "fp32",
        "moe_shared_expert_intermediate_size": experts.shared_ffn or None,
        "moe_shared_expert_gate": True,
        "expert_model_parallel_size": config.expert_parallel,
        "expert_tensor_parallel_size": config.expert_tensor_parallel,
    }


def settle_experts(stage: nn.Module) -> None:
    """Number the routers of a stage and bring them to the device, as Megatron makes them on the CPU; lay out the memory
    of experts for grouped products, and have their gradients reduced over the ranks with the same experts, which
    Megatron does only with expert parallelism."""
    stage.to(distributed.device())
    for place, router in enumerate(module for module in stage.modules() if isinstance(module, Router)):
        router.place = place
    for module in stage.modules():
        if isinstance(module, GroupedExperts):
            module.lay_out()
        for parameter in module.parameters() if isinstance(module, SequentialMLP) else ():
            parameter.allreduce = False  # type: ignore[attr-defined]
