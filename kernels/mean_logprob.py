"""Mean log-probability over the vocabulary, for self-certainty: from two inner products per token, without logits.

sum_v log p_v = sum_v z_v - V log Z, and sum_v z_v = h . sum_v w_v: the mean of the weight's rows stands for all logits.
log Z is the difference of the target's logit and its log-prob: z_t - log p_t.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .arguments import check_linear, inverse_temperature
from .rows_torch import accumulation_dtype
from .vocabulary import vocabulary


@torch.no_grad()
def linear_mean_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    logprobs: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Return the mean over the vocabulary of log softmax(hidden @ weight.T / temperature), [tokens] fp32 (fp64 for fp64
    input).

    `logprobs` [tokens] are those of `targets` [tokens] int64 (none of them IGNORE_INDEX) that `linear_logprob_entropy`
    gives for the same arguments, which are as there. The result has no gradient. Raises ValueError when shapes do not
    fit.
    """
    targets = check_linear(hidden, weight, targets)
    part = vocabulary(len(weight), vocab_size, group)
    dtype = accumulation_dtype(hidden)
    own = weight[: part.owned]
    mean_row = own.sum(dim=0, dtype=dtype) / part.size
    local = targets - part.first
    mine = (local >= 0) & (local < part.owned)
    target_rows = own[local[mine]]
    target_logits = torch.zeros(len(hidden), dtype=dtype, device=hidden.device)
    target_logits[mine] = torch.linalg.vecdot(hidden[mine].to(dtype), target_rows.to(dtype))
    sums = torch.stack([hidden.to(dtype) @ mean_row, target_logits])
    if part.group is not None:
        dist.all_reduce(sums, group=part.group)
    mean_logits, target_logits = sums
    inverse = inverse_temperature(temperature, hidden)
    distance = mean_logits - target_logits
    return logprobs + (distance if inverse is None else distance * inverse)
