"""A token-level policy loss and its gradient straight from hidden states and the (vocab-parallel) output weight.

For a piece of the tokens at a time: logits -> row statistics -> loss and its slopes -> gradient of the logits, in place
-> gradients of hidden states and weight. A token's slopes need its own log-prob and entropy only, so nothing is
computed twice: three matrix products, where a loss that is differentiated afterwards needs four.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .arguments import check_linear, inverse_temperature, kept_rows, pick, pick_if, spread
from .dispatch import (
    add_product,
    new_logits,
    operand_dtype,
    policy_kernels,
    row_kernels,
    row_spans,
    write_logits,
    write_product,
)
from .rows_torch import accumulation_dtype
from .token_loss import PolicyLossSettings, TokenInputs, TokenLossFunction
from .vocabulary import Vocabulary, vocabulary


class PolicyLossResult(NamedTuple):
    loss: Tensor
    """Scalar: sum of weight * loss over tokens, differentiable once, in `hidden` and `weight`."""
    logprobs: Tensor
    """[tokens]; as everything below without gradient, and 0 for tokens left out."""
    entropy: Tensor
    metrics: dict[str, Tensor]
    """[tokens] each."""


def linear_policy_loss(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    inputs: TokenInputs,
    loss: PolicyLossSettings | TokenLossFunction,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
    weight_grad: Tensor | None = None,
    workspace_bytes: int | None = None,
) -> PolicyLossResult:
    """The objective sum_t weights[t] * loss[t] of the policy softmax(hidden @ weight.T / temperature).

    Args:
        hidden, weight, targets, temperature, vocab_size, group, workspace_bytes: as in `linear_logprob_entropy`.
        inputs: [tokens] each.
        loss: settings of a known loss, or a function of one's own; it must give each token's loss from that token's
            log-prob and entropy alone.
        weight_grad: [vocab_shard, hidden] in the accumulation dtype, e.g. Megatron's `main_grad`. The gradient of
            `weight` is added to it during this call, autograd gets none, and the upstream gradient must be 1.

    Returns:
        Values alike, bit for bit, on all ranks of `group`. The gradient of `hidden` is this rank's partial sum: the
        caller reduces it over `group`. That of `weight` is complete for the shard.

    Raises:
        ValueError: shapes, dtypes, temperature, targets or settings do not fit.
    """
    check_linear(hidden, weight, targets)
    _check_weight_grad(weight_grad, weight)
    part = vocabulary(len(weight), vocab_size, group)
    rows = kept_rows(targets, temperature, part.size)
    inverse = pick_if(inverse_temperature(temperature, hidden), rows)
    grads = torch.is_grad_enabled()
    x, matrix = pick(hidden.detach(), rows), weight.detach()
    x_grad = torch.empty_like(x) if grads and hidden.requires_grad else None
    total = weight_grad if grads and weight.requires_grad else None
    if grads and weight.requires_grad and weight_grad is None:
        total = torch.zeros_like(matrix, dtype=accumulation_dtype(matrix))
    with torch.no_grad():
        result = _one_pass(x, matrix, targets, rows, inverse, part, inputs, loss, workspace_bytes, x_grad, total)
        logprobs, entropy = (spread(values, rows, len(hidden)) for values in (result.logprobs, result.entropy))
        metrics = {name: spread(values, rows, len(hidden)) for name, values in result.metrics.items()}
        own_grad = None if total is None or total is weight_grad else total.to(weight.dtype)
        hidden_grad = None if x_grad is None else spread(x_grad, rows, len(hidden))
    objective = _Differentiable.apply(hidden, weight, result.loss, hidden_grad, own_grad, weight_grad is not None)
    return PolicyLossResult(objective, logprobs, entropy, metrics)


def _one_pass(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    rows: Tensor | None,
    inverse: Tensor | None,
    part: Vocabulary,
    inputs: TokenInputs,
    loss: PolicyLossSettings | TokenLossFunction,
    workspace: int | None,
    x_grad: Tensor | None,
    weight_grad: Tensor | None,
) -> PolicyLossResult:
    """Of the kept rows `x`. Writes `x_grad` and adds to `weight_grad`, where they are given."""
    ids, owned = pick(targets, rows), weight[: part.owned]
    pieces = []
    for span in row_spans(len(x), len(weight), x, workspace):
        logits = new_logits(span.stop - span.start, part.owned, x)
        write_logits(x[span], owned, logits)
        scale = pick_if(inverse, span)
        statistics, logprobs, entropy = part.merge(part.statistics(logits, ids[span], scale), ids[span])
        tokens = span if rows is None else rows[span]
        slopes = policy_kernels(x).token_gradients(loss, logprobs, entropy, inputs, tokens)
        if part.owned and (x_grad is not None or weight_grad is not None):
            kernels = row_kernels(logits)
            grad = kernels.gradient_on(logits, operand_dtype(x))
            kernels.logits_gradient(
                logits, statistics, ids[span], part.first, scale, slopes.logprobs, slopes.entropy, grad
            )
            if x_grad is not None:
                write_product(grad, owned, x_grad[span])
            if weight_grad is not None:
                add_product(weight_grad[: part.owned], grad.t(), x[span])
            del grad
        elif x_grad is not None:
            x_grad[span] = 0  # padding alone
        objective = (slopes.loss * inputs.weights[tokens]).sum()
        pieces.append(PolicyLossResult(objective, logprobs, entropy, slopes.metrics))
        del logits  # before the next piece takes its memory
    if not pieces:
        empty = x.new_zeros(0, dtype=accumulation_dtype(x))
        return PolicyLossResult(empty.sum(), empty, empty, {})
    return PolicyLossResult(
        torch.stack([piece.loss for piece in pieces]).sum(),
        torch.cat([piece.logprobs for piece in pieces]),
        torch.cat([piece.entropy for piece in pieces]),
        {name: torch.cat([piece.metrics[name] for piece in pieces]) for name in pieces[0].metrics},
    )


class _Differentiable(torch.autograd.Function):
    """`value` with a gradient that is known already; `unit`: part of it has gone elsewhere, so nothing may scale it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        value: Tensor,
        hidden_grad: Tensor | None,
        weight_grad: Tensor | None,
        unit: bool,
    ) -> Tensor:
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.unit = unit
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.unit:
            torch._assert_async(upstream == 1, "with weight_grad the loss must be differentiated as it is, not scaled")
        hidden_grad, weight_grad = ctx.saved_tensors
        scaled = (None if grad is None else grad * upstream.to(grad.dtype) for grad in (hidden_grad, weight_grad))
        return *scaled, *(None,) * 4


def _check_weight_grad(weight_grad: Tensor | None, weight: Tensor) -> None:
    dtype = accumulation_dtype(weight)
    if weight_grad is not None and (weight_grad.shape != weight.shape or weight_grad.dtype != dtype):
        raise ValueError(
            f"weight_grad must be {dtype} {list(weight.shape)} like weight, got {weight_grad.dtype} "
            f"{list(weight_grad.shape)}"
        )
