"""Log-probability and entropy of each token from given logits, in one pass over them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .arguments import check_targets, inverse_temperature
from .dispatch import check_rows, row_kernels
from .vocabulary import Vocabulary, vocabulary


def logprob_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
    inplace_backward: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy in nats of softmax(logits / temperature).

    Args:
        logits: [tokens, vocab_shard], fp32, bf16, fp16 or fp64, columns contiguous, rows at any stride: entries
            `rank * vocab_shard` onwards of the vocabulary, where rank is this process's in `group`. -inf is allowed.
        targets: [tokens] int64, ids of the whole vocabulary. A row with IGNORE_INDEX has results and gradient 0.
        temperature: above 0; a number or [tokens].
        vocab_size: entries of the whole vocabulary at and beyond it are padding and get probability 0.
        group: ranks that share the vocabulary, all with the same targets; None for whole logits.
        inplace_backward: backward writes the gradient over `logits`, which nothing may need afterwards.

    Returns:
        log-probabilities and entropies, [tokens] each, fp32 (fp64 for fp64 logits), bitwise equal on all ranks of
        `group`. Both are differentiable once; the gradient has the dtype of `logits`.

    Raises:
        ValueError: shapes, strides, temperature or targets do not fit. The values of targets and of a temperature on a
            GPU are not read back: an assertion on the device fails instead.
    """
    if logits.ndim != 2 or not logits.is_floating_point() or logits.stride(1) != 1:
        raise ValueError(
            f"logits must be floating [tokens, vocab_shard] with contiguous columns, got {logits.dtype} "
            f"{list(logits.shape)} with strides {list(logits.stride())}"
        )
    targets = check_targets(targets, logits)
    part = vocabulary(logits.shape[1], vocab_size, group)
    inverse = inverse_temperature(temperature, logits)
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        results = LogprobEntropy.apply(logits, targets, inverse, part, inplace_backward)
        check_rows(targets, temperature, part.size)
    return results


class LogprobEntropy(torch.autograd.Function):
    """Autograd function of `logprob_entropy`."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, inverse: Tensor | None, part: Vocabulary, inplace: bool
    ) -> tuple[Tensor, Tensor]:
        mine = part.statistics(logits[:, : part.owned], targets, inverse)
        statistics, logprobs, entropy = part.merge(mine, targets)
        ctx.save_for_backward(logits, targets, inverse, statistics)
        ctx.part, ctx.inplace = part, inplace
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logprobs_grad: Tensor | None, entropy_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        logits, targets, inverse, statistics = ctx.saved_tensors
        part: Vocabulary = ctx.part
        g = torch.zeros_like(statistics[0]) if logprobs_grad is None else logprobs_grad
        out = logits.detach() if ctx.inplace else torch.empty_like(logits)
        out[:, part.owned :] = 0
        if part.owned:
            owned = logits.detach()[:, : part.owned]
            row_kernels(logits).logits_gradient(
                owned, statistics, targets, part.first, inverse, g, entropy_grad, out[:, : part.owned]
            )
        return out, *(None,) * 4
