"""The fused linear + softmax statistics in plain torch, tile by tile over tokens and vocabulary, for any device.

Per token and with y = logits / temperature it keeps four numbers: m = max y, s = sum e^(y-m), w = sum (y-m) e^(y-m)
and the target's y. They merge over tiles and over tensor-parallel ranks, and give log p = (y_t - m) - log s and
entropy = log s - w/s. Shifted by m throughout, they keep their digits whatever the logits' offset. The backward pass
computes each tile's logits again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_TILE_BYTES = 2 << 20
"""A tile of logits stays in the cache of one core through its elementwise passes."""
CUDA_TILE_BYTES = 512 << 20
CPU_TILE_TOKENS = 1024
CUDA_TILE_TOKENS = 4096
"""Most tokens of a tile: enough for an efficient matrix product, the rest of the bytes goes to the vocabulary."""


class Statistics(NamedTuple):
    """Of a part of the vocabulary, each [tokens]; the target's logit is 0 where the part does not hold it."""

    maximum: Tensor
    sum_exp: Tensor
    sum_shifted: Tensor
    target: Tensor

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both parts together."""
        maximum = torch.maximum(self.maximum, other.maximum)
        mine, theirs = self._shifted_to(maximum), other._shifted_to(maximum)
        return Statistics(maximum, mine[0] + theirs[0], mine[1] + theirs[1], self.target + other.target)

    def _shifted_to(self, maximum: Tensor) -> tuple[Tensor, Tensor]:
        # An empty part has maximum -inf and zero sums: its shift must not make -inf * 0.
        shift = torch.where(self.maximum.isneginf(), 0.0, self.maximum - maximum)
        scale = shift.exp()
        return scale * self.sum_exp, scale * (self.sum_shifted + shift * self.sum_exp)


class ChunkedLogprobEntropy(torch.autograd.Function):
    """See `linear_logprob_entropy`. `targets` count from this rank's first row, `rows` are the tokens to compute,
    `owned` is the number of rows of the weight that are not padding."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        rows: Tensor,
        temperature: Tensor,
        owned: int,
        group: dist.ProcessGroup | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = _accumulation_dtype(hidden)
        inverse = _inverse_temperature(temperature, rows, hidden.device, dtype)
        parts = []
        for span in _spans(len(rows), _tile_shape(len(rows), owned, hidden)[0]):
            x = _operand(hidden[rows[span]], dtype)
            parts.append(_statistics(x, weight[:owned], targets[rows[span]], _part(inverse, span), dtype))
        local = Statistics(*map(torch.cat, zip(*parts, strict=True))) if parts else _empty(rows, dtype)
        maximum, sum_exp, sum_shifted, target = _merge_ranks(local, group)

        log_sum = sum_exp.log()
        logprobs = hidden.new_zeros(len(hidden), dtype=dtype).index_copy_(0, rows, target - maximum - log_sum)
        entropy = hidden.new_zeros(len(hidden), dtype=dtype).index_copy_(0, rows, log_sum - sum_shifted / sum_exp)
        ctx.save_for_backward(hidden, weight, targets, rows, inverse, maximum, sum_exp, sum_shifted)
        ctx.owned = owned
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, logprobs_grad: Tensor | None, entropy_grad: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, rows, inverse, maximum, sum_exp, sum_shifted = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        dtype = maximum.dtype
        hidden_grad = torch.zeros_like(hidden) if needs_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=dtype) if needs_weight else None

        # dL/dlogit = onehot * direct + e^(y-m) * (base + slope * (y-m)), all [rows] with the 1/temperature inside.
        direct = _chosen(logprobs_grad, rows, maximum) * (1.0 if inverse is None else inverse)
        base, slope = -direct / sum_exp, None
        if entropy_grad is not None and entropy_grad.any():
            slope = -entropy_grad[rows] * (1.0 if inverse is None else inverse) / sum_exp
            base = base - slope * (sum_shifted / sum_exp)

        height, width = _tile_shape(len(rows), ctx.owned, hidden)
        for span in _spans(len(rows), height):
            x = _operand(hidden[rows[span]], dtype)
            x_grad = torch.zeros_like(x, dtype=dtype)
            for columns in _spans(ctx.owned, width):
                block = _operand(weight[columns], dtype)
                shifted = _logits(x, block, _part(inverse, span), dtype).sub_(maximum[span, None])
                grad = _logits_gradient(shifted, base[span, None], _part(slope, span))
                place, held = _locate(targets[rows[span]], columns)
                grad.scatter_add_(1, place[:, None], torch.where(held, direct[span], 0.0)[:, None])
                grad = grad.to(x.dtype)
                if needs_hidden:
                    _add_product(x_grad, grad, block)
                if weight_grad is not None:
                    _add_product(weight_grad[columns], grad.t(), x)
            if hidden_grad is not None:
                hidden_grad.index_copy_(0, rows[span], x_grad.to(hidden.dtype))
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), *(None,) * 5


def _statistics(x: Tensor, weight: Tensor, targets: Tensor, inverse: Tensor | None, dtype: torch.dtype) -> Statistics:
    """Of the rows `x` over all of `weight`'s rows."""
    total = _empty(targets, dtype)
    for columns in _spans(len(weight), _tile_shape(len(x), len(weight), x)[1]):
        logits = _logits(x, _operand(weight[columns], dtype), inverse, dtype)
        place, held = _locate(targets, columns)
        target = torch.where(held, logits.gather(1, place[:, None]).squeeze(1), 0.0)
        maximum = logits.amax(1)
        shifted = logits.sub_(maximum[:, None])
        exponentials = shifted.exp()
        part = Statistics(maximum, exponentials.sum(1), shifted.mul_(exponentials).sum(1), target)
        total = total.merge(part)
    return total


def _merge_ranks(local: Statistics, group: dist.ProcessGroup | None) -> Statistics:
    """One all-gather of four numbers a token, merged in rank order: the same bits on every rank."""
    if group is None:
        return local
    mine = torch.stack(local)
    everyone = mine.new_empty(group.size(), *mine.shape)
    dist.all_gather_into_tensor(everyone.view(-1, mine.shape[1]), mine, group=group)
    total, *others = (Statistics(*part) for part in everyone)
    for other in others:
        total = total.merge(other)
    return total


def _logits(x: Tensor, weight: Tensor, inverse: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[rows, columns] logits over temperature, in `dtype`."""
    logits = x @ weight.t() if x.dtype == dtype else torch.mm(x, weight.t(), out_dtype=dtype)
    return logits if inverse is None else logits.mul_(inverse[:, None])


def _logits_gradient(shifted: Tensor, base: Tensor, slope: Tensor | None) -> Tensor:
    """e^shifted * (base + slope * shifted), [rows, columns]."""
    exponentials = shifted.exp()
    if slope is None:
        return exponentials.mul_(base)
    return shifted.mul_(slope[:, None]).add_(base).mul_(exponentials)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, accumulated in total's dtype."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(torch.mm(left, right, out_dtype=total.dtype))


def _operand(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """What enters a matrix product: CUDA takes low precision with fp32 results, elsewhere it is widened first."""
    return matrix if matrix.is_cuda else matrix.to(dtype)


def _accumulation_dtype(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def _inverse_temperature(temperature: Tensor, rows: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    """[rows], or None where it would change nothing."""
    if temperature.ndim == 0:
        if temperature == 1:
            return None
        return temperature.to(device, dtype).reciprocal().expand(len(rows))
    return temperature.to(device, dtype).reciprocal()[rows]


def _chosen(gradient: Tensor | None, rows: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient[rows]


def _locate(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Each target's place inside the span of columns (0 if it is not there), and whether it is there."""
    held = (targets >= columns.start) & (targets < columns.stop)
    return torch.where(held, targets - columns.start, 0), held


def _empty(rows: Tensor, dtype: torch.dtype) -> Statistics:
    zeros = torch.zeros(len(rows), dtype=dtype, device=rows.device)
    return Statistics(torch.full_like(zeros, -torch.inf), zeros, zeros, zeros)


def _part(values: Tensor | None, span: slice) -> Tensor | None:
    return None if values is None else values[span]


def _tile_shape(rows: int, columns: int, like: Tensor) -> tuple[int, int]:
    """Tokens and vocabulary entries of one tile of logits, within the device's byte budget."""
    budget, tokens = (CUDA_TILE_BYTES, CUDA_TILE_TOKENS) if like.is_cuda else (CPU_TILE_BYTES, CPU_TILE_TOKENS)
    cells = budget // _accumulation_dtype(like).itemsize
    width = max(1, min(columns, cells // max(1, min(rows, tokens))))
    return max(1, min(rows, cells // width)), width


def _spans(length: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
