"""The form of a provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.kernels.inputs import Inputs
from bench.kernels.ours import kernels

Outputs = tuple[Tensor, ...]
Work = Callable[[Inputs], Outputs]
"""Results to differentiate: one scalar loss, or per-token values whose sum is differentiated."""


class AbsentError(Exception):
    """What a provider needs is not here, and why."""


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    prepare: Callable[[], Work]
    """Raises AbsentError, or ImportError."""
    unequal: str = ""
    """What it does less, or otherwise, than ours."""
    logits_dtype: torch.dtype = torch.bfloat16
    overwrites: bool = False
    """Backward destroys the logits: every call that is compared starts from new ones."""
    complete: bool = False
    """It does all of the work, from the same inputs: its results can be held to float64 and its speed to ours."""


def loss_of(logprobs: Tensor, entropy: Tensor | None, inputs: Inputs) -> Tensor:
    """The policy loss (clipped surrogate, entropy bonus where there is an entropy) from a peer's log-probs."""
    logprobs = at_least_fp32(logprobs)
    ratio = (logprobs - inputs.old_logprobs).clamp(-20, 20).exp()
    bound = -ratio.clamp(0.8, 1.28) * inputs.advantages
    loss = torch.maximum(-ratio * inputs.advantages, bound)
    if entropy is not None:
        loss = loss - ENTROPY_COEFFICIENT * at_least_fp32(entropy)
    return (loss * inputs.token_weight).sum()


def at_least_fp32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


ENTROPY_COEFFICIENT = 1e-3
SETTINGS = kernels.PolicyLossSettings(dual_clip=None, entropy_coefficient=ENTROPY_COEFFICIENT)
