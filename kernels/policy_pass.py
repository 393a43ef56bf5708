"""The pass of `linear_policy_loss` over the tokens, a piece at a time: logits, statistics, loss and its gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import kept_rows, pick, pick_if, spread
from .dispatch import (
    add_product,
    new_tile,
    new_weight_grad,
    operand_dtype,
    policy_kernels,
    row_kernels,
    write_product,
)
from .head import Head
from .kept_logits import packed
from .left_out import METRIC, gradient_bounds, that_count
from .pieces import row_groups
from .rows_torch import IGNORE_INDEX, accumulation_dtype
from .settings import PolicyLossSettings
from .token_loss import Metrics, TokenInputs, TokenLossFunction
from .truncation import Truncation, truncate
from .vocabulary import Vocabulary


class Passed(NamedTuple):
    """The results of a pass."""

    loss: Tensor
    """Scalar sum of weight * loss."""
    logprobs: Tensor
    """Log-probs of the targets, [tokens]."""
    entropy: Tensor
    """Entropies in nats, [tokens]."""
    metrics: Metrics
    """Metrics of the loss, [tokens] each."""
    hidden_grad: Tensor | None = None
    """Gradient of the hidden states, where it is needed."""
    weight_grad: Tensor | None = None
    """Gradient of the weight, where it is needed and has not gone into the caller's buffer."""
    bias_grad: Tensor | None = None
    """Gradient of the bias, where it is needed."""


@dataclass(frozen=True, slots=True)
class PassOptions:
    """How a pass goes, and what it makes."""

    cut: Truncation
    """Mask of the sampler."""
    part: Vocabulary
    """This rank's share of the vocabulary."""
    workspace: int | None
    """Bytes of logits and gradients alive at a time; None for the device's own value."""
    validate: bool
    """True to check targets and temperatures and leave out ignored rows, for which a GPU is waited for."""
    tau: float | None
    """Share of the gradients' size that may be left out of the products; None to leave out nothing."""
    needs_hidden: bool
    """True when the gradient of the hidden states is made."""
    needs_weight: bool
    """True when the gradient of the weight is made."""
    needs_bias: bool
    """True when the gradient of the bias is made."""


@torch.no_grad()
def policy_pass(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    inverse: Tensor | None,
    inputs: TokenInputs,
    loss: PolicyLossSettings | TokenLossFunction,
    main_grad: Tensor | None,
    options: PassOptions,
) -> Passed:
    """Return the loss of all tokens and its gradients; that of the weight is added to `main_grad` where there is one.
    Arguments are as in `arguments.Operands` and `linear_policy_loss`."""
    matrix, part = head.weight, options.part
    rows = kept_rows(targets, inverse, part.size) if options.validate else None
    ignored = None if options.validate else targets == IGNORE_INDEX
    if ignored is not None:  # they are computed with the others, and must not count
        inputs = replace(inputs, weights=inputs.weights.masked_fill(ignored, 0.0))
    x = pick(hidden, rows)
    groups = row_groups(len(x), len(matrix), x, options.workspace)
    x_grad = torch.empty_like(x) if options.needs_hidden else None
    total = main_grad if options.needs_weight else None
    if options.needs_weight and main_grad is None:
        dtype = accumulation_dtype(matrix) if len(groups) > 1 else matrix.dtype
        total = new_weight_grad(matrix, dtype, part.owned if groups else 0)
    bias_grad = torch.zeros_like(matrix[:, 0], dtype=accumulation_dtype(matrix)) if options.needs_bias else None
    with torch.cuda.device_of(hidden):  # Triton launches on the current device
        ids, warmth = pick(targets, rows), pick_if(inverse, rows)
        policy = _Policy(x, head, ids, warmth, rows, part, inputs, loss, options.cut, options.tau, bias_grad)
        results: list[Passed] = []
        for pieces in groups:
            fresh = main_grad is None and not results
            results += policy.group(pieces, x_grad, None if total is None else total[: part.owned], fresh)
        result = _joined(results) if results else policy.nothing()
    metrics = {name: spread(values, rows, len(hidden)) for name, values in result.metrics.items()}
    if ignored is not None:
        metrics = {name: values.masked_fill(ignored, 0) for name, values in metrics.items()}
    return Passed(
        result.loss,
        spread(result.logprobs, rows, len(hidden)),
        spread(result.entropy, rows, len(hidden)),
        metrics,
        None if x_grad is None else spread(x_grad, rows, len(hidden)),
        None if total is None or total is main_grad else total.to(matrix.dtype),
        None if bias_grad is None else bias_grad.to(matrix.dtype),
    )


@dataclass(frozen=True, slots=True)
class _Policy:
    """The rows that are computed, and what their loss is computed from."""

    x: Tensor
    head: Head
    targets: Tensor
    inverse: Tensor | None
    rows: Tensor | None
    """Places of the rows among all tokens; None for all of them."""
    part: Vocabulary
    inputs: TokenInputs
    """Inputs of all tokens."""
    loss: PolicyLossSettings | TokenLossFunction
    cut: Truncation
    tau: float | None
    bias_grad: Tensor | None
    """Gradient of the bias [vocab_shard], to which each group adds; None where it is not needed."""

    def group(
        self, pieces: list[slice], x_grad: Tensor | None, weight_grad: Tensor | None, fresh: bool
    ) -> list[Passed]:
        """Compute the pieces of a group one after the other, and return their results. Where they are given, the
        group's rows of `x_grad` are written, and its part of the gradient is added to `weight_grad`, or written there
        if that is `fresh`."""
        group, lengths = slice(pieces[0].start, pieces[-1].stop), [at.stop - at.start for at in pieces]
        if x_grad is None and weight_grad is None and self.bias_grad is None:
            return [self._piece(at, None)[0] for at in pieces]
        gradient = new_tile(sum(lengths), self.part.owned, self.x, operand_dtype(self.x))
        done = [self._piece(at, part) for at, part in zip(pieces, gradient.split(lengths), strict=True)]
        results, counting = [result for result, _ in done], [counts for _, counts in done if counts is not None]
        places = packed(gradient, torch.cat(counting)) if counting else None
        x = pick(self.x[group], places)
        gradient = gradient[: len(x)]
        if x_grad is not None:
            # Few tiles and many columns to add up: cuBLAS may do it in parts, and would round each of them to bf16.
            sums = torch.empty_like(x, dtype=accumulation_dtype(x_grad))
            write_product(gradient, self.head.weight[: self.part.owned], sums)
            x_grad[group] = spread(sums, places, sum(lengths))
        if weight_grad is not None:
            (write_product if fresh else add_product)(gradient.t(), x, weight_grad)
        if self.bias_grad is not None:
            self.bias_grad[: self.part.owned] += gradient.sum(0, dtype=self.bias_grad.dtype)
        return results

    def nothing(self) -> Passed:
        """Return the result for no rows. It has the metrics' names, by which ranks reduce them together."""
        empty = self.x.new_zeros(0, dtype=accumulation_dtype(self.x))
        found = policy_kernels(self.x).token_gradients(self.loss, empty, empty, self.inputs, slice(0, 0))
        return Passed(empty.sum(), empty, empty, found.metrics if self.tau is None else found.metrics | {METRIC: empty})

    def _piece(self, at: slice, gradient: Tensor | None) -> tuple[Passed, Tensor | None]:
        """Compute one piece, and write the gradient of its logits into `gradient`, where that is wanted. Return the
        results, and which rows of the gradient count (bool), or None for all; the others are 0."""
        x, targets, inverse, part = self.x[at], self.targets[at], pick_if(self.inverse, at), self.part
        logits = self.head.logits(x, slice(0, part.owned))
        if not self.cut.keeps_all:
            truncate(logits, self.cut.limits(logits, inverse, part), targets, part.first)
        statistics, logprobs, entropy = part.merge(part.statistics(logits, targets, inverse), targets)
        tokens = at if self.rows is None else self.rows[at]
        slopes = policy_kernels(x).token_gradients(self.loss, logprobs, entropy, self.inputs, tokens)
        metrics, counts = slopes.metrics, None
        if self.tau is not None:
            bounds = gradient_bounds(logprobs, entropy, inverse, slopes.logprobs, slopes.entropy)
            counts = that_count(bounds, self.tau)
            metrics = metrics | {METRIC: (~counts).to(logprobs.dtype)}
            targets = targets.masked_fill(~counts, IGNORE_INDEX)
        if gradient is not None and part.owned:
            row_kernels(logits).logits_gradient(
                logits, statistics, targets, part.first, inverse, slopes.logprobs, slopes.entropy, None, gradient
            )
            self.head.through_softcap(gradient, logits)
        objective = (slopes.loss * self.inputs.weights[tokens]).sum()
        return Passed(objective, logprobs, entropy, metrics), counts


def _joined(pieces: list[Passed]) -> Passed:
    return Passed(
        torch.stack([piece.loss for piece in pieces]).sum(),
        torch.cat([piece.logprobs for piece in pieces]),
        torch.cat([piece.entropy for piece in pieces]),
        {name: torch.cat([piece.metrics[name] for piece in pieces]) for name in pieces[0].metrics},
    )
