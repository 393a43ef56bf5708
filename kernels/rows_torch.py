"""The row kernels in plain torch, for any device and for fp64.

A row's softmax is kept as four numbers, over all or a part of the vocabulary, with y = logits * inverse temperature:
maximum m = max y, s = sum e^(y-m), w = sum (y-m) e^(y-m) and the target's y (0 where the part does not hold it). They
merge over parts, and give log p = (y_t - m) - log s and entropy = log s - w/s. Shifted by m throughout, they keep their
digits for any offset of the logits. `rows_triton` has the same functions for CUDA.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .invariant import elementwise, row_sums

IGNORE_INDEX = -100
UNDERFLOW = -1000.0
"""A number whose exponential is 0 in fp64 too."""


def row_statistics(logits: Tensor, targets: Tensor, first: int, inverse_temperature: Tensor | None) -> Tensor:
    """Return m, s, w and the target's y of each row over these columns, [parts, 4, rows], to be merged.

    Args:
        logits: [rows, columns], any floating dtype, columns contiguous.
        targets: [rows] int64 of the whole vocabulary.
        first: the vocabulary entry of column 0.
        inverse_temperature: [rows] in the accumulation dtype, None for 1.
    """
    y = _scaled(logits, inverse_temperature)
    place, held = locate(targets, first, y.shape[1])
    target = torch.where(held, y.gather(1, place[:, None]).squeeze(1), 0.0)
    maximum = y.amax(1)
    shifted = y - finite(maximum)[:, None]
    exponentials = elementwise(torch.exp, shifted)
    products = shifted.mul_(exponentials)
    sum_shifted = row_sums(products)
    if sum_shifted.isnan().any():  # from -inf * 0 where a logit is -inf
        sum_shifted = row_sums(products.masked_fill_(exponentials == 0, 0.0))
    return torch.stack([maximum, row_sums(exponentials), sum_shifted, target])[None]


def merge_statistics(parts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the statistics [4, rows] of all parts together, the log-probs [rows] and the entropies [rows]. The last
    two are 0 for rows without a target.

    `parts` [parts, 4, rows] are merged in their order, so that the same parts give the same bits.
    """
    total, *others = parts
    for part in others:
        maximum = torch.maximum(total[0], part[0])
        left, right = _shifted_to(total, maximum), _shifted_to(part, maximum)
        total = torch.stack([maximum, left[0] + right[0], left[1] + right[1], total[3] + part[3]])
    maximum, sum_exp, sum_shifted, target = total.double()  # rounded once, at the end: a few operations a row
    log_sum = elementwise(torch.log, sum_exp[:, None])[:, 0]
    ignored = targets == IGNORE_INDEX
    logprobs, entropy = target - maximum - log_sum, log_sum - sum_shifted / sum_exp
    return total, *(values.to(total.dtype).masked_fill(ignored, 0.0) for values in (logprobs, entropy))


def logits_gradient(
    logits: Tensor,
    statistics: Tensor,
    targets: Tensor,
    first: int,
    inverse_temperature: Tensor | None,
    logprobs_grad: Tensor,
    entropy_grad: Tensor | None,
    lse_grad: Tensor | None,
    out: Tensor,
) -> None:
    """Write dL/dlogits [rows, columns] into `out`, rounded to its dtype; rows without a target get 0.

    dL/dz_i = (1[i=t] g - p_i (g - l + h (log p_i + H))) / T with g = dL/dlogp, h = dL/dH, l = dL/dlse.

    Args:
        logits, targets, first, inverse_temperature: as in `row_statistics`.
        statistics: [4, rows], of the whole vocabulary.
        logprobs_grad, entropy_grad, lse_grad: [rows] g, h and l; None for an h or l of 0 everywhere.
        out: [rows, columns]; may be `logits`.
    """
    maximum, sum_exp, sum_shifted, _target = statistics
    shifted = _scaled(logits, inverse_temperature) - maximum[:, None]
    direct = logprobs_grad if inverse_temperature is None else logprobs_grad * inverse_temperature
    base = -direct / sum_exp
    if lse_grad is not None:
        base = base + (lse_grad if inverse_temperature is None else lse_grad * inverse_temperature) / sum_exp
    if entropy_grad is None:
        gradient = shifted.exp_().mul_(base[:, None])
    else:
        slope = -(entropy_grad if inverse_temperature is None else entropy_grad * inverse_temperature) / sum_exp
        base = base - slope * (sum_shifted / sum_exp)
        exponentials = shifted.exp()
        shifted.clamp_(min=UNDERFLOW)  # against -inf * 0 where a logit is -inf, whatever the slope
        gradient = exponentials.mul_(torch.addcmul(base[:, None], shifted, slope[:, None], out=shifted))
    place, held = locate(targets, first, logits.shape[1])
    gradient.scatter_add_(1, place[:, None], torch.where(held, direct, 0.0)[:, None])
    out.copy_(gradient.masked_fill_((targets == IGNORE_INDEX)[:, None], 0.0))


def _scaled(logits: Tensor, inverse_temperature: Tensor | None) -> Tensor:
    """Return y in the accumulation dtype; it is `logits` itself where nothing changes."""
    y = logits.to(accumulation_dtype(logits))
    return y if inverse_temperature is None else y * inverse_temperature[:, None]


def accumulation_dtype(like: Tensor) -> torch.dtype:
    """Return the dtype in which sums over `like` are accumulated: fp64 for fp64, else fp32."""
    return torch.float64 if like.dtype == torch.float64 else torch.float32


def _shifted_to(part: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    shift = part[0] - finite(maximum)
    scale = shift.exp()
    # An empty part (m = -inf, s = w = 0) stays empty: its shift must not make -inf * 0.
    return scale * part[1], scale * (part[2] + finite(shift) * part[1])


def finite(values: Tensor) -> Tensor:
    """Return `values` with 0 in place of -inf, which the maximum of a row without entries is."""
    return values.masked_fill(values.isneginf(), 0.0)


def locate(targets: Tensor, first: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return each target's column (0 if it is not here), and whether it is here."""
    place = targets - first
    held = (place >= 0) & (place < columns) & (targets != IGNORE_INDEX)
    return torch.where(held, place, 0), held
