"""The interface of a provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.kernels.inputs import Inputs
from bench.kernels.ours import kernels

Outputs = tuple[Tensor, ...]
Work = Callable[[Inputs], Outputs]
"""Function from inputs to the results to differentiate: one scalar loss, or per-token values whose sum is
differentiated."""


class AbsentError(Exception):
    """An error that says what a provider needs, where it is absent, and why."""


@dataclass(frozen=True, slots=True)
class Provider:
    name: str
    prepare: Callable[[], Work]
    """Function that makes the work. Raises AbsentError, or ImportError."""
    unequal: str = ""
    """Note on what it does less than ours, or differently."""
    logits_dtype: torch.dtype = torch.bfloat16
    overwrites: bool = False
    """True when backward destroys the logits: every call that is compared starts from new ones."""
    complete: bool = False
    """True when it does all of the work, from the same inputs: its results can be compared with float64 and its speed
    with ours."""


def loss_of(logprobs: Tensor, entropy: Tensor | None, inputs: Inputs) -> Tensor:
    """Return the policy loss (clipped surrogate, entropy bonus where there is an entropy) from a peer's log-probs."""
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
