"""Estimators of KL(policy || reference) from the sampled token (http://joschu.net/blog/kl-approx.html)."""

from __future__ import annotations

from typing import Literal, assert_never

import torch
from torch import Tensor

from fastsvs.algorithms.losses import clamped_log_ratio


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: Literal["k1", "k2", "k3"]) -> Tensor:
    """`[tokens]`, with d = reference - logprobs: k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1.

    As losses they differ: k1's gradient is zero in expectation, k2's is that of the KL on-policy, k3's is biased but
    bounded for tokens that the reference finds unlikely. In k3 d stays within +-20, without gradient where it is cut.
    """
    match estimator:
        case "k1":
            return logprobs - reference
        case "k2":
            return (logprobs - reference).square() / 2
        case "k3":
            difference = clamped_log_ratio(reference, logprobs)
            return torch.expm1(difference) - difference
        case _:
            assert_never(estimator)
