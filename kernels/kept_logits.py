"""Backward of log-probs and entropies from logits that forward kept: three matrix products in all, in place of four.

Forward keeps d = y - m in fp16, with m the maximum of the row on this rank, and backward turns it into the gradient of
the logits in place. Where |d| is above 2^-14, d is off by at most 2^-11 |d|, below that by at most 2^-25; beyond -65520
it becomes -inf, where e^d is 0 in fp64 too. So an entry's probability is off by a factor of e^(2^-11 |d|) at most: by
0.05% where it is 1/e of the row's largest, by 0.8% at e^-16 of it. The gradient of a row's log-prob is off by at most

    |g| sum_i p_i (e^(2^-11 |d_i|) - 1),  about 2^-11 |g| (entropy + log of the largest probability),

in the sum of its entries' sizes: uniform rows lose nothing, and neither do certain ones. For the entropy's gradient the
factor of p_i is |h| (1 + |log p_i + entropy|) in place of |g|. To round the gradient to the model's 16 bits, as every
way of computing it does, costs up to 2^-9 of each entry.
"""

from __future__ import annotations

import torch
from torch import Tensor, library

from .arguments import pick, pick_if, spread, which
from .dispatch import new_weight_grad, operand_dtype, row_kernels, write_product
from .head import Head
from .operators import NAMESPACE
from .pieces import holds_all
from .rows_torch import IGNORE_INDEX
from .vocabulary import share

KEPT_DTYPE = torch.float16
MOVED = 128
"""Number of rows that are moved at once: what is between reading and writing them takes memory."""


def can_keep(hidden: Tensor, head: Head, workspace: int | None) -> bool:
    """Check whether forward may keep logits: a gradient is wanted, which has as many bits as what is kept and needs
    nothing else of the logits, and the workspace holds them. `hidden` [tokens, hidden] are all tokens."""
    wanted = any(leaf is not None and leaf.requires_grad for leaf in (hidden, head.weight, head.bias))
    narrow = operand_dtype(hidden).itemsize == KEPT_DTYPE.itemsize
    plain = head.softcap is None  # the slope of a softcap is that of the logit itself
    return bool(torch.is_grad_enabled() and wanted and narrow and plain) and holds_all(
        len(hidden), len(head.weight), hidden, workspace
    )


@library.custom_op(f"{NAMESPACE}::kept_backward", mutates_args=("kept",))
def kept_backward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    inverse: Tensor | None,
    statistics: Tensor,
    tops: Tensor,
    kept: Tensor,
    logprobs_grad: Tensor | None,
    entropy_grad: Tensor | None,
    lse_grad: Tensor | None,
    size: int,
    first: int,
    validate: bool,
    needs_hidden: bool,
    needs_weight: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of hidden states, weight and bias; [0] for one that is not needed. `kept` is lost."""
    owned = share(len(weight), size, first, None).owned
    g = torch.zeros_like(tops) if logprobs_grad is None else logprobs_grad
    rows = None
    if validate:
        held = which(targets != IGNORE_INDEX)
        places = packed(kept, pick(moved(targets, g, entropy_grad, lse_grad), held))
        rows = places if held is None else pick_if(held, places) if places is not None else held
    x, ids, inverse, tops = pick(hidden, rows), pick(targets, rows), pick_if(inverse, rows), pick(tops, rows)
    slopes = (pick_if(slope, rows) for slope in (g, entropy_grad, lse_grad))
    scaled = [slope if slope is None or inverse is None else slope * inverse for slope in slopes]
    # Statistics of what was kept: it is scaled, and shifted by `tops`.
    maximum, sum_exp, sum_shifted, target = statistics if rows is None else statistics[:, rows]
    shifted = torch.stack([maximum - tops, sum_exp, sum_shifted, target - tops])
    kept = kept[: len(x)]
    gradient = kept.view(operand_dtype(hidden))
    some = len(x) > 0 and owned > 0
    if some:
        with torch.cuda.device_of(hidden):  # Triton launches on the current device
            row_kernels(hidden).logits_gradient(kept, shifted, ids, first, None, *scaled, gradient)
    hidden_grad, weight_grad, bias_grad = (hidden.new_empty(0) for _ in range(3))
    if needs_hidden:
        sums = torch.zeros_like(x, dtype=statistics.dtype)
        if some:
            write_product(gradient, weight[:owned], sums)
        hidden_grad = spread(sums.to(hidden.dtype), rows, len(hidden))
    if needs_weight:
        weight_grad = new_weight_grad(weight, weight.dtype, owned if some else 0)
        if some:
            write_product(gradient.t(), x, weight_grad[:owned])
    if needs_bias:
        bias_grad = torch.zeros_like(weight[:, 0])
        bias_grad[:owned] = gradient.sum(0, dtype=statistics.dtype)
    return hidden_grad, weight_grad, bias_grad


@kept_backward.register_fake
def _(hidden: Tensor, weight: Tensor, *arguments: Tensor | int | bool | None) -> tuple[Tensor, ...]:
    shapes = (hidden.shape, weight.shape, weight.shape[:1])
    return tuple(
        hidden.new_empty(shape if needed else (0,)) for shape, needed in zip(shapes, arguments[-3:], strict=True)
    )


def moved(targets: Tensor, g: Tensor, *others: Tensor | None) -> Tensor:
    """Return which rows have a target and a gradient, [rows] bool."""
    found = g != 0
    for slope in others:
        found = found if slope is None else found | (slope != 0)
    return found & (targets != IGNORE_INDEX)


def packed(tile: Tensor, live: Tensor) -> Tensor | None:
    """Move the `live` rows [rows] bool of `tile` [rows or more, columns] to its front, in place, and return which row
    each of them was, or None when all are live. On CUDA it waits for the device.

    The last live rows fill the gaps between the others, which stay where they are: no row is read after it is written.
    """
    count = int(live.sum())
    if count == len(live):
        return None
    places = torch.arange(count, device=live.device)
    gaps = (~live[:count]).nonzero().flatten()
    last = live[count:].nonzero().flatten() + count
    places[gaps] = last
    for gap, row in zip(gaps.split(MOVED), last.split(MOVED), strict=True):
        tile.index_copy_(0, gap, tile.index_select(0, row))
    return places
