"""Log-probability and entropy of each token from given logits, in one pass over them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, library

from .arguments import inverse_temperature, one_row
from .dispatch import check_rows, row_kernels
from .operators import NAMESPACE
from .rows_torch import IGNORE_INDEX, accumulation_dtype
from .vocabulary import share, vocabulary


def logprob_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    ignore_index: int = IGNORE_INDEX,
    vocab_size: int | None = None,
    vocab_start: int | None = None,
    group: dist.ProcessGroup | None = None,
    inplace_backward: bool = False,
    validate: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy in nats of softmax(logits / temperature).

    Args:
        logits: [tokens, vocab_shard], fp32, bf16, fp16 or fp64, columns contiguous, rows at any stride; any number of
            dimensions in place of tokens: entries `vocab_start` onwards of the vocabulary. -inf is allowed.
        targets: [tokens] int64 or int32, ids of the whole vocabulary. A row with `ignore_index` has results and
            gradient 0.
        temperature: above 0; a number or [tokens].
        vocab_size: entries of the whole vocabulary at and beyond it are padding and get probability 0.
        vocab_start: entry of the vocabulary in the first column, where ranks have shards of different sizes, with a
            `vocab_size`; None for shards of one size in the order of the ranks.
        group: ranks that share the vocabulary, all with the same targets; None for whole logits.
        inplace_backward: backward writes the gradient over `logits`, which nothing may need afterwards.
        validate: whether the values of targets and temperatures are checked.

    Returns:
        log-probabilities and entropies, [tokens] each, fp32 (fp64 for fp64 logits), bitwise equal on all ranks of
        `group`. Both are differentiable once; the gradient has the dtype of `logits`.

    Raises:
        ValueError: shapes, strides, temperature or targets do not fit. The values of targets and of a temperature on a
            GPU are not read back: an assertion on the device fails instead.
    """
    if logits.ndim < 2 or not logits.is_floating_point() or logits.stride(-1) != 1:
        raise ValueError(
            f"logits must be floating [tokens, vocab_shard] with contiguous columns, got {logits.dtype} "
            f"{list(logits.shape)} with strides {list(logits.stride())}"
        )
    shape, flat = targets.shape, logits.flatten(0, -2)
    targets = one_row(targets, logits, ignore_index)
    size, first, name = vocabulary(logits.shape[-1], vocab_size, group, vocab_start)
    inverse = inverse_temperature(temperature, flat, shape)
    results = row_logprobs(flat, targets, inverse, size, first, name, validate, inplace_backward)
    logprobs, entropy = (values.view(shape) for values in results[:2])
    return logprobs, entropy


@library.custom_op(f"{NAMESPACE}::row_logprobs", mutates_args=())
def row_logprobs(
    logits: Tensor,
    targets: Tensor,
    inverse: Tensor | None,
    size: int,
    first: int,
    group: str | None,
    validate: bool,
    inplace_backward: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probs and entropies [tokens] and the statistics [4, tokens]. Arguments are as in
    `arguments.Operands`."""
    part = share(logits.shape[1], size, first, group)
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        mine = part.statistics(logits[:, : part.owned], targets, inverse)
        statistics, logprobs, entropy = part.merge(mine, targets)
        if validate:
            check_rows(targets, inverse, size)
    return logprobs.clone(), entropy.clone(), statistics


@row_logprobs.register_fake
def _(logits: Tensor, *_arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    values = logits.new_empty(6, len(logits), dtype=accumulation_dtype(logits))
    return values[0].clone(), values[1].clone(), values[:4].clone()


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, targets, inverse, size, first, _group, _validate, ctx.inplace = inputs
    ctx.save_for_backward(logits, targets, inverse, output[2])
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)
    ctx.place = size, first


def _backward(
    ctx: Any, logprobs_grad: Tensor | None, entropy_grad: Tensor | None, _statistics_grad: None
) -> tuple[Tensor | None, ...]:
    logits, targets, inverse, statistics = ctx.saved_tensors
    slopes = logprobs_grad, entropy_grad
    if ctx.inplace:
        out = logits.detach()
        row_gradient_(out, targets, inverse, statistics, *slopes, *ctx.place)
    else:
        out = row_gradient(logits, targets, inverse, statistics, *slopes, *ctx.place)
    return out, *(None,) * 7


row_logprobs.register_autograd(_backward, setup_context=_keep_for_backward)


@library.custom_op(f"{NAMESPACE}::row_gradient", mutates_args=())
def row_gradient(
    logits: Tensor,
    targets: Tensor,
    inverse: Tensor | None,
    statistics: Tensor,
    logprobs_grad: Tensor | None,
    entropy_grad: Tensor | None,
    size: int,
    first: int,
) -> Tensor:
    """Return the gradient of the logits."""
    out = torch.empty_like(logits)
    _write_gradient(out, logits, targets, inverse, statistics, logprobs_grad, entropy_grad, size, first)
    return out


@row_gradient.register_fake
def _(logits: Tensor, *_arguments: Any) -> Tensor:
    return torch.empty_like(logits)


@library.custom_op(f"{NAMESPACE}::row_gradient_", mutates_args=("logits",))
def row_gradient_(
    logits: Tensor,
    targets: Tensor,
    inverse: Tensor | None,
    statistics: Tensor,
    logprobs_grad: Tensor | None,
    entropy_grad: Tensor | None,
    size: int,
    first: int,
) -> None:
    """Write the gradient of the logits over them."""
    _write_gradient(logits, logits, targets, inverse, statistics, logprobs_grad, entropy_grad, size, first)


def _write_gradient(
    out: Tensor,
    logits: Tensor,
    targets: Tensor,
    inverse: Tensor | None,
    statistics: Tensor,
    logprobs_grad: Tensor | None,
    entropy_grad: Tensor | None,
    size: int,
    first: int,
) -> None:
    owned = share(logits.shape[1], size, first, None).owned
    g = torch.zeros_like(statistics[0]) if logprobs_grad is None else logprobs_grad
    out[:, owned:] = 0
    if owned:
        kernels = row_kernels(logits)
        with torch.cuda.device_of(logits):
            kernels.logits_gradient(
                logits[:, :owned], statistics, targets, first, inverse, g, entropy_grad, None, out[:, :owned]
            )
