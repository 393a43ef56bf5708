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
    logprobs_first: bool = False
    """Its results begin with [tokens] log-probs, and entropies if there are two: they can be held to float64."""


def loss_of(logprobs: Tensor, entropy: Tensor | None, inputs: Inputs) -> Tensor:
    """The policy loss (clipped surrogate, entropy bonus where there is an entropy) from a peer's log-probs."""
    ratio = (logprobs.float() - inputs.old_logprobs).clamp(-20, 20).exp()
    bound = -ratio.clamp(0.8, 1.28) * inputs.advantages
    loss = torch.maximum(-ratio * inputs.advantages, bound)
    if entropy is not None:
        loss = loss - ENTROPY_COEFFICIENT * entropy.float()
    return (loss * inputs.token_weight).sum()


ENTROPY_COEFFICIENT = 1e-3
SETTINGS = kernels.PolicyLossSettings(dual_clip=None, entropy_coefficient=ENTROPY_COEFFICIENT)
