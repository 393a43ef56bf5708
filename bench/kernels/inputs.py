"""Tensors of a case: random, never zeros, with a few likely entries in each row as a trained model has them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.kernels.suites import Case


@dataclass(frozen=True, slots=True)
class Inputs:
    hidden: Tensor
    """[tokens, hidden], with gradient."""
    weight: Tensor
    """[vocabulary, hidden], with gradient."""
    targets: Tensor
    advantages: Tensor
    old_logprobs: Tensor
    logits: Tensor | None
    """[tokens, vocabulary], with gradient, where the operator starts from them."""

    @property
    def token_weight(self) -> float:
        return 1 / len(self.targets)


def make(case: Case, device: torch.device, logits_dtype: torch.dtype, *, peaked: bool = True, seed: int = 0) -> Inputs:
    """bf16 on a GPU, fp32 on a CPU. `peaked`: targets are likely, so that most probability is on few entries."""
    generator = torch.Generator(device).manual_seed(seed)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokens, shape = case.tokens, case.shape
    if case.operator == "logprob_entropy":
        logits = torch.randn(tokens, shape.vocabulary, device=device, dtype=logits_dtype, generator=generator)
        logits.mul_(3 if peaked else 1).requires_grad_()
        hidden = weight = torch.empty(0, device=device)
    else:
        logits = None
        hidden = torch.randn(tokens, shape.hidden, device=device, dtype=dtype, generator=generator)
        weight = torch.randn(shape.vocabulary, shape.hidden, device=device, dtype=dtype, generator=generator)
        weight.mul_((3 if peaked else 1) / shape.hidden**0.5)
        hidden.requires_grad_(), weight.requires_grad_()
    targets = torch.randint(shape.vocabulary, (tokens,), device=device, generator=generator)
    normal = torch.randn(2, tokens, device=device, generator=generator)
    return Inputs(hidden, weight, targets, normal[0], normal[1] - shape.vocabulary**0.2, logits)
