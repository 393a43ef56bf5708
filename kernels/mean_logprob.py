"""Mean log-probability over the vocabulary, for self-certainty: from two inner products per token, without logits.

sum_v log p_v = sum_v z_v - V log Z, and sum_v z_v = h . sum_v w_v: the mean of the weight's rows stands for all logits.
log Z is the difference of the target's logit and its log-prob: z_t - log p_t.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .arguments import operands
from .head import Head
from .rows_torch import IGNORE_INDEX, accumulation_dtype
from .vocabulary import share


@torch.no_grad()
def linear_mean_logprob(
    hidden: Tensor,
    weight: Tensor | Head,
    targets: Tensor,
    logprobs: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    vocab_start: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Return the mean over the vocabulary of log softmax(hidden @ weight.T / temperature), [tokens] fp32 (fp64 for fp64
    input).

    `logprobs` [tokens] are those of `targets` [tokens] int64 (none of them IGNORE_INDEX) that `linear_logprob_entropy`
    gives for the same arguments, which are as there. The result has no gradient. Raises ValueError when shapes do not
    fit.
    """
    of = operands(hidden, weight, targets, temperature, IGNORE_INDEX, vocab_size, vocab_start, group)
    if of.head.softcap is not None:
        raise ValueError("the mean of logits under a softcap is not that of a product: softcap must be None")
    part, dtype, x = share(len(of.head.weight), of.size, of.first, of.group), accumulation_dtype(of.hidden), of.hidden
    own = of.head.weight[: part.owned]
    mean_row = own.sum(dim=0, dtype=dtype) / part.size
    local = of.targets - part.first
    mine = (local >= 0) & (local < part.owned)
    target_logits = torch.zeros(len(x), dtype=dtype, device=x.device)
    target_logits[mine] = torch.linalg.vecdot(x[mine].to(dtype), own[local[mine]].to(dtype))
    sums = torch.stack([x.to(dtype) @ mean_row, target_logits])
    if of.head.bias is not None:
        bias = of.head.bias[: part.owned].to(dtype)
        sums[0] += bias.sum() / part.size
        sums[1, mine] += bias[local[mine]]
    if part.group is not None:
        dist.all_reduce(sums, group=part.group)
    mean_logits, target_logits = sums
    distance = mean_logits - target_logits
    return logprobs + (distance if of.inverse is None else distance * of.inverse).view(of.shape)
