"""A worker extension that mends what keeps vLLM 0.32 from guessing tokens on a CPU, so that the rest can be tested.

vLLM's `cpu_triton_utils._expand_kernel_impl` hands copies in int64 to its kernel, and the temperatures of guessed
tokens stay what their memory held before.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vllm.v1.sample import rejection_sampler


class Extension:
    """Class that vLLM mixes into its workers."""


def expand(x: Tensor, ends: Tensor, tokens: int, replace_from: int = 0, replace_to: int = 0) -> Tensor:
    """Return each of `x` [sequences] once for each of its tokens, [tokens]; `ends` [sequences] are running sums."""
    repeated = x.repeat_interleave(torch.diff(ends.long(), prepend=ends.new_zeros(1).long()))
    assert len(repeated) == tokens
    return repeated.masked_fill(repeated == replace_from, replace_to)


rejection_sampler.expand_batch_to_tokens = expand
