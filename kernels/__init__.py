"""FastSvS kernels: fused operators of the policy loss, usable without the trainer."""

from .linear_logprob import IGNORE_INDEX, linear_logprob_entropy

__all__ = ["IGNORE_INDEX", "linear_logprob_entropy"]
