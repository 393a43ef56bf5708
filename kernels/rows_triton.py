"""The row kernels in Triton; see `rows_torch` for what they compute.

Every row belongs to one program or, when rows are few, to a fixed number of them merged in order: no atomics, the same
bits on every run. A program walks its columns in blocks, each thread by itself: a block is seen as [loads of a thread,
threads, entries of a 128-bit load], and a thread's share of it never leaves the thread. Whole blocks carry no mask, so
that their loads stay 128 bits wide whatever the number of columns.

Exponentials are exp2 of a difference from the maximum, so that an offset of all logits costs no digits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .rows_torch import IGNORE_INDEX
from .table import row_cut, warps

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
IGNORED = tl.constexpr(IGNORE_INDEX)
UNDERFLOW = tl.constexpr(-200.0)  # its exp2 is 0 in fp32, and that times it is 0, which 0 * -inf is not


def row_statistics(logits: Tensor, targets: Tensor, first: int, inverse_temperature: Tensor | None) -> Tensor:
    """Return the statistics of `rows_torch.row_statistics`, from a Triton kernel."""
    rows, columns = logits.shape
    config, parts, span = row_cut("row_statistics", logits)
    out = torch.empty(parts, 4, rows, dtype=torch.float32, device=logits.device)
    if rows:
        row_statistics_kernel[(rows * parts,)](
            logits,
            logits.stride(0),
            targets,
            first,
            inverse_temperature,
            stride(inverse_temperature),
            out,
            columns,
            parts,
            span,
            BLOCK=config.block,
            THREADS=config.threads,
            num_warps=warps(config.threads, logits.device),
            enable_fp_fusion=True,
        )
    return out


def merge_statistics(parts: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of `rows_torch.merge_statistics`, from a Triton kernel."""
    count, _, rows = parts.shape
    statistics, results = (torch.empty(n, rows, dtype=torch.float32, device=parts.device) for n in (4, 2))
    few = warps(128, parts.device)
    if rows:
        merge_statistics_kernel[(triton.cdiv(rows, 128),)](
            parts, count, targets, statistics, results, rows, BLOCK=128, num_warps=few, enable_fp_fusion=True
        )
    return statistics, results[0], results[1]


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
    """Write the gradient of `rows_torch.logits_gradient` into `out`, by a Triton kernel."""
    rows, columns = logits.shape
    config, parts, span = row_cut("logits_gradient", logits)
    if rows:
        logits_gradient_kernel[(rows * parts,)](
            logits,
            logits.stride(0),
            statistics,
            statistics.stride(0),
            targets,
            first,
            inverse_temperature,
            stride(inverse_temperature),
            logprobs_grad,
            logprobs_grad.stride(0),
            entropy_grad,
            stride(entropy_grad),
            lse_grad,
            stride(lse_grad),
            out,
            out.stride(0),
            columns,
            parts,
            span,
            BLOCK=config.block,
            num_warps=warps(config.threads, logits.device),
            enable_fp_fusion=True,
        )


@triton.jit(do_not_specialize=["parts"])
def row_statistics_kernel(
    logits,
    row_stride,
    targets,
    first,
    inverse_temperature,
    temperature_stride,
    out,
    columns,
    parts,
    span,
    BLOCK: tl.constexpr,
    THREADS: tl.constexpr,
):
    """Compute the statistics of columns part * span up to span further of a row, in program row * parts + part."""
    row = (tl.program_id(0) // parts).to(tl.int64)
    part = tl.program_id(0) % parts
    rows = tl.num_programs(0) // parts
    begin = part * span
    end = tl.minimum(begin + span, columns)
    whole = begin + (end - begin) // BLOCK * BLOCK
    inverse = 1.0
    if inverse_temperature is not None:
        inverse = tl.load(inverse_temperature + row * temperature_stride)
    scale = inverse * LOG2_E
    target = tl.load(targets + row)

    maximum = tl.full([THREADS], float("-inf"), tl.float32)
    sum_exp = tl.zeros([THREADS], tl.float32)
    sum_shifted = tl.zeros([THREADS], tl.float32)
    at_target = 0.0
    if target != IGNORED:
        row_logits = logits + row * row_stride
        lanes = tl.arange(0, BLOCK)
        for start in tl.range(begin, whole, BLOCK):
            z = tl.load(row_logits + start + lanes)
            maximum, sum_exp, sum_shifted = _absorb(z, scale, maximum, sum_exp, sum_shifted)
        if whole < end:
            z = tl.load(row_logits + whole + lanes, mask=whole + lanes < end, other=float("-inf"))
            maximum, sum_exp, sum_shifted = _absorb(z, scale, maximum, sum_exp, sum_shifted)
        place = target - first
        if (place >= begin) & (place < end):
            at_target = tl.load(row_logits + place).to(tl.float32) * inverse

    top = tl.max(maximum, 0)
    finite = tl.where(top == float("-inf"), 0.0, top)
    shift = tl.maximum((maximum - finite) * scale, UNDERFLOW)
    # The scaled maximum is stored rounded: the sums make up for its last digit.
    shift += tl.fma(finite, inverse, -(finite * inverse)) * LOG2_E
    rescale = tl.exp2(shift)
    out += part * 4 * rows + row
    tl.store(out, top * inverse)
    tl.store(out + rows, tl.sum(rescale * sum_exp, 0))
    tl.store(out + 2 * rows, tl.sum(rescale * (sum_shifted + shift * sum_exp), 0) * LN_2)
    tl.store(out + 3 * rows, at_target)


@triton.jit
def _absorb(z, scale, maximum, sum_exp, sum_shifted):
    """Add z [BLOCK] to each thread's maximum, sum 2^d and sum d 2^d [THREADS], where d = (z - maximum) * scale."""
    VECTOR: tl.constexpr = 128 // z.dtype.primitive_bitwidth
    THREADS: tl.constexpr = maximum.shape[0]
    z = tl.reshape(z.to(tl.float32), [z.shape[0] // (THREADS * VECTOR), THREADS, VECTOR])
    new_maximum = tl.maximum(maximum, tl.max(tl.max(z, 0), 1))
    finite = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    shift = tl.maximum((maximum - finite) * scale, UNDERFLOW)  # the sums are 0 as long as there is no maximum
    rescale = tl.exp2(shift)
    d = tl.maximum((z - finite[None, :, None]) * scale, UNDERFLOW, propagate_nan=tl.PropagateNan.ALL)
    e = tl.exp2(d)
    sum_shifted = rescale * (sum_shifted + shift * sum_exp) + tl.sum(tl.sum(d * e, 0), 1)
    sum_exp = rescale * sum_exp + tl.sum(tl.sum(e, 0), 1)
    return new_maximum, sum_exp, sum_shifted


@triton.jit
def merge_statistics_kernel(parts, count, targets, statistics, results, rows, BLOCK: tl.constexpr):
    """Merge the parts of BLOCK rows in their order, and write their statistics, log-probs and entropies."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held = row < rows
    maximum = tl.full([BLOCK], float("-inf"), tl.float32)
    sum_exp = tl.zeros([BLOCK], tl.float32)
    sum_shifted = tl.zeros([BLOCK], tl.float32)
    at_target = tl.zeros([BLOCK], tl.float32)
    for _ in range(count):
        part_maximum = tl.load(parts + row, mask=held, other=0.0)
        part_exp = tl.load(parts + rows + row, mask=held, other=1.0)
        part_shifted = tl.load(parts + 2 * rows + row, mask=held, other=0.0)
        at_target += tl.load(parts + 3 * rows + row, mask=held, other=0.0)
        new_maximum = tl.maximum(maximum, part_maximum)
        finite = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        mine = tl.maximum(maximum - finite, UNDERFLOW)
        theirs = tl.maximum(part_maximum - finite, UNDERFLOW)
        my_scale, their_scale = tl.exp(mine), tl.exp(theirs)
        sum_shifted = my_scale * (sum_shifted + mine * sum_exp) + their_scale * (part_shifted + theirs * part_exp)
        sum_exp = my_scale * sum_exp + their_scale * part_exp
        maximum = new_maximum
        parts += 4 * rows
    wide_exp = sum_exp.to(tl.float64)  # rounded once, at the end: a few operations a row
    log_sum = tl.log(wide_exp)
    kept = tl.load(targets + row, mask=held, other=IGNORED) != IGNORED
    tl.store(statistics + row, maximum, mask=held)
    tl.store(statistics + rows + row, sum_exp, mask=held)
    tl.store(statistics + 2 * rows + row, sum_shifted, mask=held)
    tl.store(statistics + 3 * rows + row, at_target, mask=held)
    logprob = (at_target.to(tl.float64) - maximum - log_sum).to(tl.float32)
    entropy = (log_sum - sum_shifted / wide_exp).to(tl.float32)
    tl.store(results + row, tl.where(kept, logprob, 0.0), mask=held)
    tl.store(results + rows + row, tl.where(kept, entropy, 0.0), mask=held)


@triton.jit(do_not_specialize=["parts"])
def logits_gradient_kernel(
    logits,
    row_stride,
    statistics,
    statistics_stride,
    targets,
    first,
    inverse_temperature,
    temperature_stride,
    logprobs_grad,
    logprobs_grad_stride,
    entropy_grad,
    entropy_grad_stride,
    lse_grad,
    lse_grad_stride,
    out,
    out_stride,
    columns,
    parts,
    span,
    BLOCK: tl.constexpr,
):
    """Write the gradient of columns part * span up to span further of a row, in program row * parts + part."""
    row = (tl.program_id(0) // parts).to(tl.int64)
    begin = tl.program_id(0) % parts * span
    end = tl.minimum(begin + span, columns)
    whole = begin + (end - begin) // BLOCK * BLOCK
    lanes = tl.arange(0, BLOCK)
    row_logits = logits + row * row_stride
    row_out = out + row * out_stride
    target = tl.load(targets + row)
    if target == IGNORED:
        zeros = tl.zeros([BLOCK], out.dtype.element_ty)
        for start in tl.range(begin, whole, BLOCK):
            tl.store(row_out + start + lanes, zeros)
        tl.store(row_out + whole + lanes, zeros, mask=whole + lanes < end)
    else:
        inverse = 1.0
        if inverse_temperature is not None:
            inverse = tl.load(inverse_temperature + row * temperature_stride)
        maximum = tl.load(statistics + row)
        sum_exp = tl.load(statistics + statistics_stride + row)
        direct = tl.load(logprobs_grad + row * logprobs_grad_stride) * inverse
        over_sum = 1 / sum_exp  # by the fast division, then to the last digit
        over_sum = tl.fma(over_sum, tl.fma(-sum_exp, over_sum, 1.0), over_sum)
        base = -direct * over_sum
        if lse_grad is not None:
            base += tl.load(lse_grad + row * lse_grad_stride) * inverse * over_sum
        slope = 0.0
        if entropy_grad is not None:
            slope = -tl.load(entropy_grad + row * entropy_grad_stride) * inverse * over_sum
            base -= slope * (tl.load(statistics + 2 * statistics_stride + row) * over_sum)
            slope *= LN_2
        for start in tl.range(begin, whole, BLOCK):
            z = tl.load(row_logits + start + lanes).to(tl.float32)
            gradient = _softmax_gradient(tl.fma(z, inverse, -maximum), base, slope, entropy_grad is not None)
            tl.store(row_out + start + lanes, gradient.to(out.dtype.element_ty))
        if whole < end:
            held = whole + lanes < end
            z = tl.load(row_logits + whole + lanes, mask=held, other=0.0).to(tl.float32)
            gradient = _softmax_gradient(tl.fma(z, inverse, -maximum), base, slope, entropy_grad is not None)
            tl.store(row_out + whole + lanes, gradient.to(out.dtype.element_ty), mask=held)
        place = target - first
        if (place >= begin) & (place < end):
            at_target = tl.load(statistics + 3 * statistics_stride + row)
            gradient = direct + _softmax_gradient(at_target - maximum, base, slope, entropy_grad is not None)
            tl.debug_barrier()  # after the block that holds it
            tl.store(row_out + place, gradient.to(out.dtype.element_ty))


@triton.jit
def _softmax_gradient(y, base, slope, SLOPED: tl.constexpr):
    """Return e^y (base + slope log2 e^y), or 0 for an e^y of 0."""
    y *= LOG2_E
    if SLOPED:
        y = tl.maximum(y, UNDERFLOW, propagate_nan=tl.PropagateNan.ALL)
        return tl.exp2(y) * (base + slope * y)
    return tl.exp2(y) * base


def stride(vector: Tensor | None) -> int:
    """Return the stride of a vector, or 1 for none, whose pointer no kernel follows."""
    return 1 if vector is None else vector.stride(0)
