"""The token losses of `token_loss` in one Triton kernel: value, metrics and slopes, with the derivatives written out.

The kernel replaces some sixty launches on vectors. Only the form of the loss is compiled in; its numbers are arguments.
"""

from __future__ import annotations

from typing import get_args

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import token_loss
from .settings import Correction, Estimator, PolicyLossSettings
from .table import warps
from .token_loss import LOG_RATIO_LIMIT, TokenGradients, TokenInputs, TokenLossFunction

LIMIT = tl.constexpr(LOG_RATIO_LIMIT)
SURROGATES = list(token_loss.SURROGATES)
CORRECTIONS = get_args(Correction)
ESTIMATORS = get_args(Estimator)
BLOCK = 256
THREADS = 128


def token_gradients(
    loss: PolicyLossSettings | TokenLossFunction,
    logprobs: Tensor,
    entropy: Tensor,
    inputs: TokenInputs,
    rows: slice | Tensor,
) -> TokenGradients:
    """Compute what `token_loss.token_gradients` does; a function of the user's own is passed on to that."""
    if callable(loss):
        return token_loss.token_gradients(loss, logprobs, entropy, inputs, rows)
    token_loss.check_name(loss)
    own = inputs.at(rows)
    token_loss.check(loss, own.rollout_logprobs, own.reference_logprobs)
    names = token_loss.metric_names(loss, own)
    count = len(logprobs)
    out = torch.empty(3 + len(names), count, dtype=torch.float32, device=logprobs.device)
    if count:
        token_loss_kernel[(triton.cdiv(count, BLOCK),)](
            logprobs,
            entropy,
            own.advantages,
            own.weights,
            own.old_logprobs,
            own.rollout_logprobs,
            own.reference_logprobs,
            out,
            count,
            1 - loss.clip_low,
            1 + loss.clip_high,
            loss.dual_clip or 0.0,
            loss.ratio_min,
            loss.ratio_max,
            loss.sapo_temperature_positive,
            loss.sapo_temperature_negative,
            loss.tis_cap,
            *loss.icepop_range,
            loss.kl_coefficient,
            loss.entropy_coefficient,
            SURROGATE=SURROGATES.index(loss.loss),
            DUAL=loss.dual_clip is not None,
            CORRECTION=CORRECTIONS.index(loss.rollout_correction),
            KL=ESTIMATORS.index(loss.kl_estimator) + 1 if loss.kl_coefficient else 0,
            ENTROPY=loss.entropy_coefficient != 0,
            BLOCK=BLOCK,
            num_warps=warps(THREADS, logprobs.device),
            enable_fp_fusion=True,
        )
    return TokenGradients(
        loss=out[0],
        logprobs=out[1],
        entropy=out[2] if loss.entropy_coefficient else None,
        metrics=dict(zip(names, out[3:], strict=True)),
    )


@triton.jit
def token_loss_kernel(
    logprobs,
    entropy,
    advantages,
    weights,
    old_logprobs,
    rollout_logprobs,
    reference_logprobs,
    out,
    count,
    clip_low,
    clip_high,
    dual_clip,
    ratio_min,
    ratio_max,
    temperature_positive,
    temperature_negative,
    tis_cap,
    icepop_low,
    icepop_high,
    kl_coefficient,
    entropy_coefficient,
    SURROGATE: tl.constexpr,
    DUAL: tl.constexpr,
    CORRECTION: tl.constexpr,
    KL: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write `out` [3 + metrics, tokens]: loss, slope in the log-prob, slope in the entropy, then the metrics."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    held = token < count
    now = tl.load(logprobs + token, mask=held, other=0.0)
    advantage = tl.load(advantages + token, mask=held, other=0.0)
    weight = tl.load(weights + token, mask=held, other=0.0)
    old = now
    if old_logprobs is not None:
        old = tl.load(old_logprobs + token, mask=held, other=0.0)
    difference = now - old
    log_ratio = _clamp(difference, -LIMIT, LIMIT)
    cut = tl.abs(difference) > LIMIT
    ratio = tl.exp(log_ratio)
    moving = tl.where(cut, 0.0, ratio)  # d ratio / d log-prob
    absent = weight == 0
    metric = out + 3 * count + token
    metric = _store(metric, ratio, absent, held, count)
    metric = _store(metric, cut.to(tl.float32), absent, held, count)
    metric = _store(metric, _excess(log_ratio), absent, held, count)
    if rollout_logprobs is not None:
        rollout = tl.load(rollout_logprobs + token, mask=held, other=0.0)
        metric = _store(metric, tl.abs(old - rollout), absent, held, count)

    if SURROGATE == 0:  # ppo
        free, bound = -ratio * advantage, -_clamp(ratio, clip_low, clip_high) * advantage
        loss = tl.where(bound > free, bound, free)
        slope = tl.where(bound > free, 0.0, -advantage * moving)
        metric = _store(metric, ((advantage < 0) & (ratio < clip_low)).to(tl.float32), absent, held, count)
        metric = _store(metric, ((advantage > 0) & (ratio > clip_high)).to(tl.float32), absent, held, count)
        if DUAL:
            most = -dual_clip * advantage
            over = (advantage < 0) & (loss > most)
            loss = tl.where(over, most, loss)
            slope = tl.where(over, 0.0, slope)
            metric = _store(metric, ((advantage < 0) & (ratio > dual_clip)).to(tl.float32), absent, held, count)
    elif SURROGATE == 1:  # cispo
        slope = -_clamp(ratio, ratio_min, ratio_max) * advantage
        loss = slope * now
        metric = _store(metric, (ratio < ratio_min).to(tl.float32), absent, held, count)
        metric = _store(metric, (ratio > ratio_max).to(tl.float32), absent, held, count)
    else:  # sapo
        tau = tl.where(advantage > 0, temperature_positive, temperature_negative)
        gate = 1 / (1 + tl.exp(-tau * (ratio - 1)))
        kept = 4 * gate / (1 + tl.exp(tau * (ratio - 1)))  # the other factor is 1 - gate, with all its digits
        loss = -advantage * 4 / tau * gate
        slope = -advantage * kept * moving
        metric = _store(metric, kept, absent, held, count)

    if CORRECTION != 0:
        raw = tl.exp(_clamp(old - rollout, -LIMIT, LIMIT))
        if CORRECTION == 1:  # tis
            limited = raw > tis_cap
            correction = tl.where(limited, tis_cap, raw)
        else:  # icepop
            limited = (raw < icepop_low) | (raw > icepop_high)
            correction = tl.where(limited, 0.0, raw)
        loss *= correction
        slope *= correction
        metric = _store(metric, correction, absent, held, count)
        metric = _store(metric, limited.to(tl.float32), absent, held, count)

    if KL != 0:
        reference = tl.load(reference_logprobs + token, mask=held, other=0.0)
        if KL == 1:
            kl = now - reference
            kl_slope = tl.full([BLOCK], 1.0, tl.float32)
        elif KL == 2:
            kl = (now - reference) * (now - reference) / 2
            kl_slope = now - reference
        else:
            away = _clamp(reference - now, -LIMIT, LIMIT)
            kl = _excess(away)
            kl_slope = tl.where(tl.abs(reference - now) > LIMIT, 0.0, -(kl + away))
        loss += kl_coefficient * kl
        slope += kl_coefficient * kl_slope
        _store(metric, kl, absent, held, count)

    if ENTROPY:
        loss -= entropy_coefficient * tl.load(entropy + token, mask=held, other=0.0)
        tl.store(out + 2 * count + token, -entropy_coefficient * weight, mask=held)
    _store(out + token, loss, absent, held, count)
    tl.store(out + count + token, tl.where(absent, 0.0, slope * weight), mask=held)


@triton.jit
def _excess(x):
    """Return e^x - 1 - x; near 0 by its series, where the difference would be all rounding error."""
    series = 1.0 / 362880
    series = 1.0 / 40320 + x * series
    series = 1.0 / 5040 + x * series
    series = 1.0 / 720 + x * series
    series = 1.0 / 120 + x * series
    series = 1.0 / 24 + x * series
    series = 1.0 / 6 + x * series
    series = 0.5 + x * series
    return tl.where(tl.abs(x) < 0.5, x * x * series, tl.exp(x) - 1 - x)


@triton.jit
def _clamp(x, low, high):
    """Clamp x to low..high; NaN stays NaN."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def _store(place, values, absent, held, count):
    """Write `values`, with 0 for those that are not finite where `absent`, and return the next place."""
    tl.store(place, tl.where(absent & (values - values != 0), 0.0, values), mask=held)
    return place + count
