"""Feed-forwards of a layer, dense or of the experts that its router chooses for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastsvs.families import Experts
from fastsvs.rollout.local.linear import linear
from fastsvs.rollout.local.weights import FeedForward, LayerWeights, MixtureWeights


def gated(x: Tensor, weights: FeedForward) -> Tensor:
    """Return down(silu(gate(x)) * up(x)) of `x` [tokens, hidden]."""
    gate, up = linear(x, weights.gate_up).chunk(2, dim=1)
    return linear(F.silu(gate).mul_(up), weights.down)


def mix(x: Tensor, layer: LayerWeights, mixture: MixtureWeights, experts: Experts) -> tuple[Tensor, Tensor]:
    """Return what the experts of each token, and the shared one, make of `x` [tokens, hidden], and their numbers
    [tokens, active] int64."""
    weights, chosen = route(x, mixture.router, experts)
    mixed = torch.zeros_like(x)
    for number, expert in enumerate(mixture.experts):
        tokens, places = (chosen == number).nonzero(as_tuple=True)
        if len(tokens):
            mixed.index_add_(0, tokens, (gated(x[tokens], expert) * weights[tokens, places, None]).to(x.dtype))
    if layer.feed_forward is not None and mixture.shared_gate is not None:
        mixed += F.linear(x, mixture.shared_gate).sigmoid() * gated(x, layer.feed_forward)
    return mixed, chosen


def route(x: Tensor, router: Tensor, experts: Experts) -> tuple[Tensor, Tensor]:
    """Return the weights and the numbers of each token's experts, [tokens, active] fp32 and int64, of `x` [tokens,
    hidden]."""
    scores = F.linear(x.float(), router.float()).softmax(-1)
    weights, chosen = scores.topk(experts.active, dim=-1)
    return weights / weights.sum(-1, keepdim=True) if experts.normalized else weights, chosen
