"""A token-level policy loss and its gradient straight from hidden states and the (vocab-parallel) output weight.

For one piece of the tokens at a time: logits -> row statistics -> loss and its slopes -> gradient of the logits. For
several pieces together: gradient of the logits -> gradients of hidden states and weight. A token's slopes need only its
own log-prob and entropy, so nothing is computed twice: this takes three matrix products, where a loss that is
differentiated afterwards takes four.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .arguments import check_linear, inverse_temperature, kept_rows, pick, pick_if, spread
from .dispatch import (
    add_product,
    new_tile,
    new_weight_grad,
    operand_dtype,
    policy_kernels,
    row_kernels,
    scale,
    write_product,
)
from .pieces import row_groups
from .rows_torch import accumulation_dtype
from .settings import PolicyLossSettings
from .token_loss import TokenInputs, TokenLossFunction
from .vocabulary import Vocabulary, vocabulary


class PolicyLossResult(NamedTuple):
    """The objective, and what it was computed from."""

    loss: Tensor
    """Scalar sum of weight * loss over tokens, differentiable once, in `hidden` and `weight`."""
    logprobs: Tensor
    """Log-probs of the targets, [tokens]; like everything below without gradient, and 0 for tokens left out."""
    entropy: Tensor
    """Entropies in nats, [tokens]."""
    metrics: dict[str, Tensor]
    """Metrics of the loss, [tokens] each; by the same names for any number of tokens."""


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
    """Return the objective sum_t weights[t] * loss[t] of the policy softmax(hidden @ weight.T / temperature).

    Args:
        hidden, weight, targets, temperature, vocab_size, group, workspace_bytes: as in `linear_logprob_entropy`.
        inputs: what the loss needs of each token, [tokens] each.
        loss: settings of a known loss, or the caller's own function, which must give each token's loss from that
            token's log-prob and entropy alone. It is called with no tokens where none has a target.
        weight_grad: [vocab_shard, hidden] in the accumulation dtype, e.g. Megatron's `main_grad`. The gradient of
            `weight` is added to it during this call, autograd gets none, and the upstream gradient must be 1.

    Returns:
        Results that are equal, bit for bit, on all ranks of `group`. The gradient of `hidden` is this rank's partial
        sum: the caller reduces it over `group`. That of `weight` is complete for the shard.

    Raises:
        ValueError: shapes, dtypes, devices, temperature, targets or settings do not fit.
    """
    targets = check_linear(hidden, weight, targets)
    _check_inputs(inputs, hidden)
    _check_weight_grad(weight_grad, weight)
    part = vocabulary(len(weight), vocab_size, group)
    rows = kept_rows(targets, temperature, part.size)
    inverse = pick_if(inverse_temperature(temperature, hidden), rows)
    needs_hidden, needs_weight = (torch.is_grad_enabled() and leaf.requires_grad for leaf in (hidden, weight))
    x, matrix = pick(hidden.detach(), rows), weight.detach()
    groups = row_groups(len(x), len(matrix), x, workspace_bytes)
    x_grad = torch.empty_like(x) if needs_hidden else None
    total = weight_grad if needs_weight else None
    if needs_weight and weight_grad is None:
        dtype = accumulation_dtype(matrix) if len(groups) > 1 else matrix.dtype
        total = new_weight_grad(matrix, dtype, part.owned if groups else 0)
    with torch.no_grad(), torch.cuda.device_of(hidden):  # Triton launches on the current device
        policy = _Policy(x, matrix[: part.owned], pick(targets, rows), inverse, rows, part, inputs, loss)
        results: list[PolicyLossResult] = []
        for pieces in groups:
            fresh = weight_grad is None and not results
            results += policy.group(pieces, x_grad, None if total is None else total[: part.owned], fresh)
        result = _joined(results) if results else policy.nothing()
        logprobs, entropy = (spread(values, rows, len(hidden)) for values in (result.logprobs, result.entropy))
        metrics = {name: spread(values, rows, len(hidden)) for name, values in result.metrics.items()}
        own_grad = None if total is None or total is weight_grad else total.to(weight.dtype)
        hidden_grad = None if x_grad is None else spread(x_grad, rows, len(hidden))
    objective = _Differentiable.apply(hidden, weight, result.loss, hidden_grad, own_grad, weight_grad is not None)
    return PolicyLossResult(objective, logprobs, entropy, metrics)


@dataclass(frozen=True, slots=True)
class _Policy:
    """The rows that have a target, and what their loss is computed from."""

    x: Tensor
    weight: Tensor
    """Output weight without padding, [vocabulary, hidden]."""
    targets: Tensor
    inverse: Tensor | None
    rows: Tensor | None
    """Places of the rows among all tokens; None for all of them."""
    part: Vocabulary
    inputs: TokenInputs
    """Inputs of all tokens."""
    loss: PolicyLossSettings | TokenLossFunction

    def group(
        self, pieces: list[slice], x_grad: Tensor | None, weight_grad: Tensor | None, fresh: bool
    ) -> list[PolicyLossResult]:
        """Compute the pieces of a group one after the other, and return their results. Where they are given, the
        group's rows of `x_grad` are written, and its part of the gradient is added to `weight_grad`, or written there
        if that is `fresh`."""
        group, lengths = slice(pieces[0].start, pieces[-1].stop), [at.stop - at.start for at in pieces]
        if x_grad is None and weight_grad is None:
            return [self._piece(at, None) for at in pieces]
        gradient = new_tile(sum(lengths), self.part.owned, self.x, operand_dtype(self.x))
        results = [self._piece(at, part) for at, part in zip(pieces, gradient.split(lengths), strict=True)]
        if x_grad is not None:
            # Few tiles and many columns to add up: cuBLAS may do it in parts, and would round each of them to bf16.
            sums = torch.empty_like(x_grad[group], dtype=accumulation_dtype(x_grad))
            write_product(gradient, self.weight, sums)
            x_grad[group] = sums
        if weight_grad is not None:
            (write_product if fresh else add_product)(gradient.t(), self.x[group], weight_grad)
        return results

    def nothing(self) -> PolicyLossResult:
        """Return the result for no rows. It has the metrics' names, by which ranks reduce them together."""
        empty = self.x.new_zeros(0, dtype=accumulation_dtype(self.x))
        found = policy_kernels(self.x).token_gradients(self.loss, empty, empty, self.inputs, slice(0, 0))
        return PolicyLossResult(empty.sum(), empty, empty, found.metrics)

    def _piece(self, at: slice, gradient: Tensor | None) -> PolicyLossResult:
        """Compute one piece, and write the gradient of its logits into `gradient`, where that is wanted."""
        x, targets, inverse, part = self.x[at], self.targets[at], pick_if(self.inverse, at), self.part
        logits = new_tile(len(x), part.owned, x, accumulation_dtype(x))
        write_product(x, self.weight.t(), logits)
        statistics, logprobs, entropy = part.merge(part.statistics(logits, targets, inverse), targets)
        tokens = at if self.rows is None else self.rows[at]
        slopes = policy_kernels(x).token_gradients(self.loss, logprobs, entropy, self.inputs, tokens)
        if gradient is not None and part.owned:
            row_kernels(logits).logits_gradient(
                logits, statistics, targets, part.first, inverse, slopes.logprobs, slopes.entropy, gradient
            )
        objective = (slopes.loss * self.inputs.weights[tokens]).sum()
        return PolicyLossResult(objective, logprobs, entropy, slopes.metrics)


def _joined(pieces: list[PolicyLossResult]) -> PolicyLossResult:
    return PolicyLossResult(
        torch.stack([piece.loss for piece in pieces]).sum(),
        torch.cat([piece.logprobs for piece in pieces]),
        torch.cat([piece.entropy for piece in pieces]),
        {name: torch.cat([piece.metrics[name] for piece in pieces]) for name in pieces[0].metrics},
    )


class _Differentiable(torch.autograd.Function):
    """Autograd function of a `value` whose gradients are known already. With `unit` part of them has gone elsewhere, so
    nothing may scale them."""

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
        ctx.grads, ctx.unit = (hidden_grad, weight_grad), unit
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.unit:
            torch._assert_async(upstream == 1, "with weight_grad the loss must be differentiated as it is, not scaled")
        if ctx.grads is None:
            raise RuntimeError("linear_policy_loss can be differentiated once: it made its gradients with the loss")
        grads, ctx.grads = ctx.grads, None
        for grad in grads:
            if grad is not None and not ctx.unit:
                scale(grad, upstream)
        return *grads, *(None,) * 4


def _check_inputs(inputs: TokenInputs, hidden: Tensor) -> None:
    for field in fields(inputs):
        values = getattr(inputs, field.name)
        if values is not None and (
            values.shape != (len(hidden),) or not values.is_floating_point() or values.device != hidden.device
        ):
            raise ValueError(
                f"inputs.{field.name} must be floating [{len(hidden)}] on {hidden.device}, got {values.dtype} "
                f"{list(values.shape)} on {values.device}"
            )


def _check_weight_grad(weight_grad: Tensor | None, weight: Tensor) -> None:
    dtype = accumulation_dtype(weight)
    if weight_grad is not None and (weight_grad.shape != weight.shape or weight_grad.dtype != dtype):
        raise ValueError(
            f"weight_grad must be {dtype} {list(weight.shape)} like weight, got {weight_grad.dtype} "
            f"{list(weight_grad.shape)}"
        )
