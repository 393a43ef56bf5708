"""Log-probability and entropy of each token straight from hidden states and the (vocab-parallel) output weight.

Forward takes whole rows of logits, a piece of the tokens at a time, and keeps four numbers per token. Backward makes
the logits again, a piece of the vocabulary at a time. These are four matrix products in all, for any loss.
`linear_policy_loss` needs three, for losses that look at one token at a time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .arguments import check_linear, inverse_temperature, kept_rows, pick, pick_if, spread
from .dispatch import add_product, new_tile, new_weight_grad, operand_dtype, row_kernels, write_product
from .pieces import row_pieces, tiles
from .rows_torch import accumulation_dtype
from .vocabulary import Vocabulary, vocabulary


def linear_logprob_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    vocab_size: int | None = None,
    group: dist.ProcessGroup | None = None,
    workspace_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log p(target) and entropy in nats of softmax(hidden @ weight.T / temperature), without keeping logits.

    Args:
        hidden: [tokens, hidden], fp32, bf16, fp16 or fp64.
        weight: [vocab_shard, hidden] of the same dtype: rows `rank * vocab_shard` onwards of the whole weight, where
            rank is this process's in `group`.
        targets: [tokens] int64, ids of the whole vocabulary. A row with IGNORE_INDEX costs nothing: its results are 0
            and it has no gradient. A row whose incoming gradients are 0 costs nothing in backward.
        temperature: above 0; a number or [tokens].
        vocab_size: rows of the whole weight at and beyond it are padding and get probability 0.
        group: ranks that share the vocabulary, all with the same hidden states and targets; None for a whole weight.
        workspace_bytes: bytes of logits and gradients alive at a time, as far as shapes allow; None for the
            device's own value (`pieces`).

    Returns:
        log-probabilities and entropies, [tokens] each, fp32 (fp64 for fp64 input), accumulated in that dtype, bitwise
        equal on all ranks of `group`. Both are differentiable once, in `hidden` and `weight`. The gradient of `hidden`
        is this rank's partial sum: the caller reduces it over `group`. That of `weight` is complete for the shard.

    Raises:
        ValueError: shapes, dtypes, temperature or targets do not fit.
    """
    targets = check_linear(hidden, weight, targets)
    part = vocabulary(len(weight), vocab_size, group)
    rows = kept_rows(targets, temperature, part.size)
    inverse = pick_if(inverse_temperature(temperature, hidden), rows)
    with torch.cuda.device_of(hidden):  # Triton launches on the current device
        return LinearLogprobEntropy.apply(hidden, weight, targets, rows, inverse, part, workspace_bytes)


class LinearLogprobEntropy(torch.autograd.Function):
    """Autograd function of `linear_logprob_entropy`.

    `rows` are those to compute, None for all; `inverse` is the inverse temperature of each of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        rows: Tensor | None,
        inverse: Tensor | None,
        part: Vocabulary,
        workspace: int | None,
    ) -> tuple[Tensor, Tensor]:
        x, ids = pick(hidden, rows), pick(targets, rows)
        pieces = []
        for span in row_pieces(len(x), len(weight), x, workspace):
            logits = new_tile(span.stop - span.start, part.owned, x, accumulation_dtype(x))
            write_product(x[span], weight[: part.owned].t(), logits)
            pieces.append(part.statistics(logits, ids[span], pick_if(inverse, span)))
            del logits  # before the next piece takes its memory
        mine = torch.cat(pieces, 1) if pieces else x.new_empty(4, 0, dtype=accumulation_dtype(x))
        statistics, logprobs, entropy = part.merge(mine, ids)
        ctx.save_for_backward(hidden, weight, targets, rows, inverse, statistics)
        ctx.part, ctx.workspace = part, workspace
        ctx.set_materialize_grads(False)
        return spread(logprobs, rows, len(hidden)), spread(entropy, rows, len(hidden))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logprobs_grad: Tensor | None, entropy_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, rows, inverse, statistics = ctx.saved_tensors
        part: Vocabulary = ctx.part
        h = pick_if(entropy_grad, rows)
        g = torch.zeros_like(statistics[0]) if logprobs_grad is None else pick(logprobs_grad, rows)
        moved = (g != 0 if h is None else (g != 0) | (h != 0)).nonzero().flatten()
        if len(moved) < len(g):
            rows = moved if rows is None else rows[moved]
            g, h, inverse, statistics = g[moved], pick_if(h, moved), pick_if(inverse, moved), statistics[:, moved]
        x, ids = pick(hidden, rows), pick(targets, rows)

        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        x_grad = torch.zeros_like(x, dtype=statistics.dtype) if needs_hidden else None
        weight_grad = new_weight_grad(weight, weight.dtype, part.owned if len(x) else 0) if needs_weight else None
        heights, widths = tiles(len(x), part.owned, x, ctx.workspace)
        for columns in widths:
            # Several pieces of rows add up in the accumulation dtype before they are rounded, once.
            total = torch.zeros_like(weight[columns], dtype=statistics.dtype) if len(heights) > 1 else None
            for span in heights:
                size = span.stop - span.start, columns.stop - columns.start
                logits, grad = new_tile(*size, x, statistics.dtype), new_tile(*size, x, operand_dtype(x))
                write_product(x[span], weight[columns].t(), logits)
                row_kernels(logits).logits_gradient(
                    logits,
                    statistics[:, span],
                    ids[span],
                    part.first + columns.start,
                    pick_if(inverse, span),
                    g[span],
                    pick_if(h, span),
                    grad,
                )
                del logits
                if x_grad is not None:
                    add_product(grad, weight[columns], x_grad[span])
                if weight_grad is not None and total is not None:
                    add_product(grad.t(), x[span], total)
                elif weight_grad is not None:
                    write_product(grad.t(), x, weight_grad[columns])
                del grad
            if weight_grad is not None and total is not None:
                weight_grad[columns] = total
        hidden_grad = None if x_grad is None else spread(x_grad.to(hidden.dtype), rows, len(hidden))
        return hidden_grad, weight_grad, *(None,) * 5
