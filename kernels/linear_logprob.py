"""Log-probability and entropy of each token straight from hidden states and the (vocab-parallel) output weight.

Forward takes whole rows of logits, a piece of the tokens at a time, and keeps four numbers per token. Backward makes
the logits again, a piece of the vocabulary at a time: four matrix products in all, for any loss. Where the workspace
holds them, forward keeps the logits too, in 16 bits, and three products are enough (`kept_logits`).
`linear_policy_loss` always needs three, for losses that look at one token at a time.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.distributed as dist
from torch import Tensor, library

from .arguments import kept_rows, operands, pick, pick_if, spread, which
from .dispatch import add_product, keep, new_tile, new_weight_grad, operand_dtype, row_kernels, write_product
from .head import Head
from .kept_logits import KEPT_DTYPE, can_keep, kept_backward, moved
from .operators import NAMESPACE
from .pieces import check_workspace, row_pieces, tiles
from .rows_torch import IGNORE_INDEX, accumulation_dtype, finite
from .truncation import Truncation, truncate
from .vocabulary import share


@overload
def linear_logprob_entropy(
    hidden: Tensor, weight: Tensor | Head, targets: Tensor, *, return_lse: Literal[False] = False, **options: Any
) -> tuple[Tensor, Tensor]: ...
@overload
def linear_logprob_entropy(
    hidden: Tensor, weight: Tensor | Head, targets: Tensor, *, return_lse: Literal[True], **options: Any
) -> tuple[Tensor, Tensor, Tensor]: ...
def linear_logprob_entropy(  # type: ignore[misc]  # the overloads stand for the results alone
    hidden: Tensor,
    weight: Tensor | Head,
    targets: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    truncation: Truncation | None = None,
    ignore_index: int = IGNORE_INDEX,
    vocab_size: int | None = None,
    vocab_start: int | None = None,
    group: dist.ProcessGroup | None = None,
    workspace_bytes: int | None = None,
    validate: bool = True,
    return_lse: bool = False,
    keep_logits: bool = True,
) -> tuple[Tensor, ...]:
    """Return log p(target) and entropy in nats of softmax(hidden @ weight.T / temperature), without keeping logits.

    Args:
        hidden: [tokens, hidden], fp32, bf16, fp16 or fp64; any number of dimensions in place of tokens.
        weight: [vocab_shard, hidden], rows `vocab_start` onwards of the whole weight, of the same dtype or a wider one
            (an fp32 head on bf16 states); or a `Head`, which has a bias and a softcap too. A DTensor that is sharded
            over the vocabulary brings its group and its place.
        targets: [tokens] int64 or int32, ids of the whole vocabulary. A row with `ignore_index` costs nothing: its
            results are 0 and it has no gradient. A row whose incoming gradients are 0 costs nothing in backward.
        temperature: above 0; a number or [tokens].
        truncation: mask of the sampler, under which log-prob, entropy and logsumexp are taken; None for none.
        vocab_size: rows of the whole weight at and beyond it are padding and get probability 0.
        vocab_start: entry of the vocabulary in the weight's first row, where ranks have shards of different sizes, with
            a `vocab_size`; None for shards of one size in the order of the ranks.
        group: ranks that share the vocabulary, all with the same hidden states and targets; None for a whole weight.
        workspace_bytes: bytes of logits and gradients alive at a time, as far as shapes allow; None for the
            device's own value (`pieces`).
        validate: whether targets and temperatures are checked, for which a GPU is waited for. Without it they must be
            right, nothing waits, and a row that is ignored or has no gradient costs as much as any other.
        return_lse: whether the logsumexp of logits / temperature is returned too, e.g. for a z-loss.
        keep_logits: whether backward may take its gradients from logits that forward kept in fp16, less their row's
            maximum: three products in all in place of four. Forward keeps them, until backward, where a gradient is
            wanted, the model has 16 bits, the head has no softcap, and the workspace holds all of them. Log-probs and
            entropies are the same bits either way. What it costs the gradients: `kept_logits`. Without it backward
            makes exact logits again, as it does elsewhere, and in a second backward of the same graph.

    Returns:
        log-probabilities and entropies, and with `return_lse` logsumexps, [tokens] each, fp32 (fp64 for fp64 input),
        accumulated in that dtype, bitwise equal on all ranks of `group`. All are differentiable once, in `hidden`,
        `weight` and the bias. The gradient of `hidden` is this rank's partial sum: the caller reduces it over `group`.
        Those of weight and bias are complete for the shard.

    Raises:
        ValueError: shapes, dtypes, temperature or targets do not fit.
    """
    of = operands(hidden, weight, targets, temperature, ignore_index, vocab_size, vocab_start, group)
    cut, workspace = truncation or Truncation(), check_workspace(workspace_bytes)
    results = linear_statistics(
        of.hidden,
        of.head.weight,
        of.head.bias,
        of.targets,
        of.inverse,
        of.head.softcap,
        cut.top_k,
        cut.top_p,
        of.size,
        of.first,
        of.group,
        workspace,
        validate,
        keep_logits and can_keep(of.hidden, of.head, workspace),
    )
    return tuple(values.view(of.shape) for values in results[: 3 if return_lse else 2])


@library.custom_op(f"{NAMESPACE}::linear_statistics", mutates_args=())
def linear_statistics(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse: Tensor | None,
    softcap: float | None,
    top_k: int | None,
    top_p: float | None,
    size: int,
    first: int,
    group: str | None,
    workspace: int | None,
    validate: bool,
    keeps: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return log-probs, entropies and logsumexps [tokens], and for backward the statistics [4, tokens], the limits of
    the truncation ([tokens], or [0] for none), and with `keeps` the maxima [tokens] of this rank's rows and the kept
    logits [tokens, owned], whose first rows are those of the tokens that have a target; without it both have no rows.
    Arguments are as in `arguments.Operands`."""
    head, part = Head(weight, bias, softcap), share(len(weight), size, first, group)
    cut, owned = Truncation(top_k, top_p), slice(0, part.owned)
    rows = kept_rows(targets, inverse, size) if validate else None
    x, ids, inverse = pick(hidden, rows), pick(targets, rows), pick_if(inverse, rows)
    pieces, limits = [x.new_empty(4, 0, dtype=accumulation_dtype(x))], [x.new_empty(0, dtype=accumulation_dtype(x))]
    kept = new_tile(len(hidden) if keeps else 0, part.owned, x, KEPT_DTYPE)
    with torch.cuda.device_of(hidden):  # Triton launches on the current device
        for span in row_pieces(len(x), len(weight), x, workspace):
            logits = head.logits(x[span], owned)
            if not cut.keeps_all:
                limits += [cut.limits(logits, pick_if(inverse, span), part)]
                truncate(logits, limits[-1], ids[span], part.first)
            pieces.append(part.statistics(logits, ids[span], pick_if(inverse, span)))
            if keeps and part.owned:
                keep(logits, pick_if(inverse, span), finite(pieces[-1][0]), kept[span])
            del logits  # before the next piece takes its memory
        mine = torch.cat(pieces, 1)
        statistics, logprobs, entropy = part.merge(mine, ids)
        lse = (statistics[0] + statistics[1].log()).masked_fill(ids == IGNORE_INDEX, 0.0)
        whole = statistics if rows is None else spread(statistics.t(), rows, len(hidden)).t().contiguous()
        limit, tops = torch.cat(limits), finite(mine[0]) if keeps else mine[0, :0].clone()
        results = (spread(values, rows, len(hidden)) for values in (logprobs, entropy, lse))
        logprobs, entropy, lse = (values.clone() if rows is None else values for values in results)
        limit, tops = (spread(values, rows, len(hidden)) if len(values) else values for values in (limit, tops))
        return logprobs, entropy, lse, whole, limit, tops, kept


@linear_statistics.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse: Tensor | None,
    softcap: float | None,
    top_k: int | None,
    top_p: float | None,
    size: int,
    first: int,
    group: str | None,
    workspace: int | None,
    validate: bool,
    keeps: bool,
) -> tuple[Tensor, ...]:
    tokens, dtype = len(hidden), accumulation_dtype(hidden)
    limited, kept = 0 if Truncation(top_k, top_p).keeps_all else tokens, tokens if keeps else 0
    shapes = (*[(tokens,)] * 3, (4, tokens), (limited,), (kept,))
    vectors = (hidden.new_empty(shape, dtype=dtype) for shape in shapes)
    return *vectors, new_tile(kept, share(len(weight), size, first, None).owned, hidden, KEPT_DTYPE)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, targets, inverse, *options = inputs
    ctx.save_for_backward(hidden, weight, bias, targets, inverse, *output[3:6])
    ctx.mark_non_differentiable(*output[3:])
    ctx.set_materialize_grads(False)
    ctx.options = options
    ctx.kept = output[6] if options[-1] else None  # not a saved tensor: backward overwrites it, and may come twice


def _backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
    *operands, statistics, limits, tops = ctx.saved_tensors
    softcap, _top_k, _top_p, size, first, _group, workspace, validate, _keeps = ctx.options
    needed = ctx.needs_input_grad[:3]
    kept, ctx.kept = ctx.kept, None
    given = *operands, statistics
    if kept is None:
        place = softcap, size, first, workspace, validate
        gradients = linear_statistics_backward(*given, limits, *slopes[:3], *place, *needed)
    else:
        gradients = kept_backward(*given, tops, kept, *slopes[:3], size, first, validate, *needed)
    chosen = (gradient if wanted else None for gradient, wanted in zip(gradients, needed, strict=True))
    return *chosen, *(None,) * 11


linear_statistics.register_autograd(_backward, setup_context=_keep_for_backward)


@library.custom_op(f"{NAMESPACE}::linear_statistics_backward", mutates_args=())
def linear_statistics_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse: Tensor | None,
    statistics: Tensor,
    limits: Tensor,
    logprobs_grad: Tensor | None,
    entropy_grad: Tensor | None,
    lse_grad: Tensor | None,
    softcap: float | None,
    size: int,
    first: int,
    workspace: int | None,
    validate: bool,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden states, weight and bias; [0] for one that is not needed."""
    head, part = Head(weight, bias, softcap), share(len(weight), size, first, None)
    g = torch.zeros_like(statistics[0]) if logprobs_grad is None else logprobs_grad
    rows = which(moved(targets, g, entropy_grad, lse_grad)) if validate else None
    x, ids, inverse, g = pick(hidden, rows), pick(targets, rows), pick_if(inverse, rows), pick(g, rows)
    h, z = pick_if(entropy_grad, rows), pick_if(lse_grad, rows)
    statistics = statistics if rows is None else statistics[:, rows]
    limit = pick(limits, rows) if len(limits) else None
    dtype = statistics.dtype
    x_grad = torch.zeros_like(x, dtype=dtype) if needs_hidden else None
    weight_grad = new_weight_grad(weight, weight.dtype, part.owned if len(x) else 0) if needs_weight else None
    bias_grad = torch.zeros(len(weight), dtype=dtype, device=x.device) if needs_bias else None
    with torch.cuda.device_of(hidden):
        heights, widths = tiles(len(x), part.owned, x, workspace)
        for columns in widths:
            # Several pieces of rows add up in the accumulation dtype before they are rounded, once.
            total = torch.zeros_like(weight[columns], dtype=dtype) if len(heights) > 1 else None
            for span in heights:
                logits = head.logits(x[span], columns)
                if limit is not None:
                    truncate(logits, limit[span], ids[span], part.first + columns.start)
                grad = new_tile(len(logits), logits.shape[1], x, operand_dtype(x))
                row_kernels(logits).logits_gradient(
                    logits,
                    statistics[:, span],
                    ids[span],
                    part.first + columns.start,
                    pick_if(inverse, span),
                    g[span],
                    pick_if(h, span),
                    pick_if(z, span),
                    grad,
                )
                head.through_softcap(grad, logits)
                del logits
                if x_grad is not None:
                    add_product(grad, weight[columns], x_grad[span])
                if weight_grad is not None and total is not None:
                    add_product(grad.t(), x[span], total)
                elif weight_grad is not None:
                    write_product(grad.t(), x, weight_grad[columns])
                if bias_grad is not None:
                    bias_grad[columns] += grad.sum(0, dtype=dtype)
                del grad
            if weight_grad is not None and total is not None:
                weight_grad[columns] = total
    return (
        hidden.new_empty(0) if x_grad is None else spread(x_grad.to(hidden.dtype), rows, len(hidden)),
        hidden.new_empty(0) if weight_grad is None else weight_grad,
        hidden.new_empty(0) if bias_grad is None else bias_grad.to(weight.dtype),
    )


@linear_statistics_backward.register_fake
def _(hidden: Tensor, weight: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    shapes = (hidden.shape, weight.shape, weight.shape[:1])
    return tuple(
        hidden.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, arguments[-3:], strict=True)
    )
