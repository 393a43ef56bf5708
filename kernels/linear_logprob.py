"""Log-probability and entropy of each token straight from hidden states and the (vocab-parallel) output weight.

The public operator: it checks its arguments and picks the implementation for the device.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .chunked import ChunkedLogprobEntropy

IGNORE_INDEX = -100


def linear_logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy in nats of softmax(hidden @ weight.T / temperature), without keeping logits.

    Args:
        hidden: [tokens, hidden], fp32, bf16, fp16 or fp64.
        weight: [vocab_shard, hidden] of the same dtype: rows `rank * vocab_shard` onwards of the whole weight, where
            rank is this process's in `group`.
        targets: [tokens] int64, ids of the whole vocabulary. A row with IGNORE_INDEX costs nothing: its results are 0
            and it has no gradient.
        temperature: above 0; a number or [tokens].
        vocab_size: rows of the whole weight at and beyond it are padding and get probability 0.
        group: ranks that share the vocabulary, all with the same hidden states and targets; None for a whole weight.

    Returns:
        log-probabilities and entropies, [tokens] each, fp32 (fp64 for fp64 input), accumulated in that dtype, bitwise
        equal on all ranks of `group`. Both are differentiable once, in `hidden` and `weight`. The gradient of `hidden`
        is this rank's partial sum: the caller reduces it over `group`. That of `weight` is complete for the shard.

    Raises:
        ValueError: shapes, dtypes, temperature or targets do not fit.
    """
    ranks, rank = (group.size(), group.rank()) if group is not None else (1, 0)
    columns = ranks * len(weight) if vocab_size is None else vocab_size
    _check(hidden, weight, targets, temperature, columns, ranks)
    rows = (targets != IGNORE_INDEX).nonzero().flatten()
    first = rank * len(weight)
    owned = min(max(columns - first, 0), len(weight))
    # Triton for CUDA tensors plugs in here; the chunked torch version serves every device.
    return ChunkedLogprobEntropy.apply(
        hidden, weight, targets - first, rows, torch.as_tensor(temperature), owned, group if ranks > 1 else None
    )


def _check(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor, columns: int, ranks: int
) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden must be [tokens, hidden] and weight [vocab_shard, hidden], got {tuple(hidden.shape)} "
            f"and {tuple(weight.shape)}"
        )
    if hidden.dtype != weight.dtype or not hidden.is_floating_point():
        raise ValueError(f"hidden and weight must share a floating dtype, got {hidden.dtype} and {weight.dtype}")
    if targets.shape != hidden.shape[:1] or targets.dtype != torch.int64:
        raise ValueError(
            f"targets must be int64 [{len(hidden)}] like hidden's rows, got {targets.dtype} {list(targets.shape)}"
        )
    if not 0 < columns <= ranks * len(weight):
        raise ValueError(
            f"vocab_size must lie in 1..{ranks * len(weight)}, the rows of the whole weight, got {columns}"
        )
    scale = torch.as_tensor(temperature)
    if scale.ndim and scale.shape != targets.shape:
        raise ValueError(f"temperature must be a number or [{len(hidden)}], got {list(scale.shape)}")
    if not (scale > 0).all():
        raise ValueError("temperature must be above 0 everywhere")
    wrong = (targets != IGNORE_INDEX) & ((targets < 0) | (targets >= columns))
    if wrong.any():
        raise ValueError(
            f"{int(wrong.sum())} targets lie outside the vocabulary of {columns}, e.g. {int(targets[wrong][0])}; "
            f"rows to leave out have {IGNORE_INDEX}"
        )
