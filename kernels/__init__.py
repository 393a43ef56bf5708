"""FastSvS kernels: fused operators of the policy loss, usable without the trainer."""

from .linear_logprob import linear_logprob_entropy
from .logprob import logprob_entropy
from .rows_torch import IGNORE_INDEX

__all__ = ["IGNORE_INDEX", "linear_logprob_entropy", "logprob_entropy"]
