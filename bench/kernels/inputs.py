"""Tensors of a case: random and never zero, of the shape that a rollout has."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.kernels.suites import Case


@dataclass(frozen=True, slots=True)
class Inputs:
    hidden: Tensor
    """Hidden states, [tokens, hidden], with gradient."""
    weight: Tensor
    """Weight of the output head, [vocabulary, hidden], with gradient."""
    targets: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    logits: Tensor | None
    """Logits, [tokens, vocabulary], with gradient, where the operator starts from them."""

    @property
    def token_weight(self) -> float:
        return 1 / len(self.targets)


def make(
    case: Case,
    device: torch.device,
    logits_dtype: torch.dtype,
    *,
    peaked: bool = True,
    seed: int = 0,
    model_dtype: torch.dtype | None = None,
) -> Inputs:
    """Return a case's inputs, with states and weight in `model_dtype` (None: bf16 on a GPU and fp32 on a CPU).

    All logits have a standard deviation of 1. With `peaked`, one entry of each row stands out and gets between 1% and
    99.9% of the probability, and targets fall on it as often as it would be drawn. That is a trained model's mixture of
    open and decided tokens, which matters to kernels that skip small gradients. The policy has moved a little since the
    rollout: ratios are about exp(0.1 x normal).
    """
    generator = torch.Generator(device).manual_seed(seed)
    dtype = model_dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    tokens, shape = case.tokens, case.shape

    def normal(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(*size, device=device, dtype=dtype, generator=generator)

    def entries() -> Tensor:
        return torch.randint(shape.vocabulary, (tokens,), device=device, generator=generator)

    likely, targets, uniform = entries(), entries(), torch.rand(2, tokens, device=device, generator=generator)
    height = 12 * uniform[0] - 4  # over all the others together, in nats
    gain = height + math.log(shape.vocabulary) + 0.5
    if peaked:
        targets = torch.where(uniform[1] < height.sigmoid(), likely, targets)
    logits, hidden, weight = None, torch.empty(0, device=device), torch.empty(0, device=device)
    if case.operator == "logprob_entropy":
        logits = normal(tokens, shape.vocabulary, dtype=logits_dtype)
        if peaked:
            logits[torch.arange(tokens, device=device), likely] += gain.to(logits_dtype)
        logits.requires_grad_()
    else:
        hidden = normal(tokens, shape.hidden, dtype=dtype)
        weight = normal(shape.vocabulary, shape.hidden, dtype=dtype).div_(shape.hidden**0.5)
        if peaked:
            hidden += gain.to(dtype)[:, None] * weight[likely]  # rows of the weight have norm 1
        hidden.requires_grad_(), weight.requires_grad_()
    old = 0.1 * normal(tokens)
    if case.operator == "linear_policy_loss":
        old += target_logprobs(hidden, weight, targets)
    return Inputs(hidden, weight, targets, normal(tokens), old, logits)


@torch.no_grad()
def target_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, rows: int = 1024) -> Tensor:
    pieces = []
    for x, ids in zip(hidden.split(rows), targets.split(rows), strict=True):
        logits = (x @ weight.t()).float()
        pieces.append(logits.gather(-1, ids[:, None]).squeeze(-1) - logits.logsumexp(-1))
    return torch.cat(pieces)
