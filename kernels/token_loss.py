"""Policy losses that look at one token at a time, with importance correction, KL to a reference and entropy bonus.

The formulas are differentiable and in plain torch. `token_loss_triton` has the same in one kernel, with the gradient
written out. All tensors are [tokens]. A loss comes with its metrics, detached [tokens] each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .settings import Estimator, PolicyLossSettings

LOG_RATIO_LIMIT = 20.0
Metrics = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class TokenInputs:
    """The inputs of the loss for each token beside the policy's log-prob and entropy, [tokens] fp32 each."""

    advantages: Tensor
    weights: Tensor
    """Weight of the token's loss in the objective (aggregation over tokens, sequences, ranks), with any further
    scale. A token of weight 0 adds nothing, whatever its other inputs hold: NaN neither reaches the loss nor a
    gradient."""
    old_logprobs: Tensor | None = None
    """Log-probs of the policy before the batch's first update; None when that is this policy, and every ratio is 1."""
    rollout_logprobs: Tensor | None = None
    """Log-probs of the engine that sampled the tokens."""
    reference_logprobs: Tensor | None = None
    """Log-probs of the reference model."""

    def check(self, shape: torch.Size, device: torch.device) -> None:
        """Raise ValueError for an input that is not floating, of another shape than the tokens, or elsewhere."""
        for field in fields(self):
            values = getattr(self, field.name)
            if values is not None and (
                values.shape != shape or not values.is_floating_point() or values.device != device
            ):
                raise ValueError(
                    f"inputs.{field.name} must be floating {list(shape)} on {device}, got {values.dtype} "
                    f"{list(values.shape)} on {values.device}"
                )

    def in_one_row(self) -> TokenInputs:
        """Return the inputs as [tokens], whatever shape the tokens have."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.reshape(-1) for name, value in given.items() if value is not None})

    def at(self, rows: slice | Tensor) -> TokenInputs:
        """Return the inputs of these tokens, each in one piece of memory."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value[rows].contiguous() for name, value in given.items() if value is not None})


class TokenGradients(NamedTuple):
    """The loss of each token, its gradients and its metrics. For a token of weight 0 the gradients are 0, and so is
    whatever else is not finite."""

    loss: Tensor
    """Loss without the weights."""
    logprobs: Tensor
    """Gradient d(weights * loss)/d(log-prob)."""
    entropy: Tensor | None
    """Gradient d(weights * loss)/d(entropy); None where it is 0."""
    metrics: Metrics


TokenLossFunction = Callable[[Tensor, Tensor, "slice | Tensor"], tuple[Tensor, Metrics]]
"""Differentiable function (log-probs, entropies, which tokens they are) -> (loss, metrics)."""


def token_gradients(
    loss: PolicyLossSettings | TokenLossFunction,
    logprobs: Tensor,
    entropy: Tensor,
    inputs: TokenInputs,
    rows: slice | Tensor,
) -> TokenGradients:
    """Compute the loss and its gradients by autograd. `inputs` are those of all tokens; `rows` says which of them
    `logprobs` and `entropy` belong to."""
    own = inputs.at(rows)
    with torch.enable_grad(), _autograd_inside_operators():
        at = logprobs.detach().requires_grad_(), entropy.detach().requires_grad_()
        values, metrics = loss(*at, rows) if callable(loss) else token_loss(loss, *at, own)
        slopes = torch.autograd.grad(values, at, own.weights, allow_unused=True)
    absent = own.weights == 0
    of_logprobs = torch.zeros_like(logprobs) if slopes[0] is None else slopes[0].masked_fill(absent, 0.0)
    of_entropy = None if slopes[1] is None else slopes[1].masked_fill(absent, 0.0)
    metrics = {name: _finite_where(absent, metric) for name, metric in metrics.items()}
    return TokenGradients(_finite_where(absent, values.detach()), of_logprobs, of_entropy, metrics)


def metric_names(settings: PolicyLossSettings, inputs: TokenInputs) -> list[str]:
    """Return the names of the metrics of a loss, in the order of `token_loss` and of the Triton kernel."""
    names = ["ratio", "ratio_cut", "approx_kl"]
    if inputs.rollout_logprobs is not None:
        names += ["rollout_mismatch"]
    names += ["gradient_kept"] if settings.loss == "sapo" else ["clip_fraction_low", "clip_fraction_high"]
    if settings.loss == "ppo" and settings.dual_clip is not None:
        names += ["clip_fraction_dual"]
    if settings.rollout_correction != "none":
        names += ["correction_weight", "correction_limited"]
    if settings.kl_coefficient:
        names += ["reference_kl"]
    return names


def token_loss(
    settings: PolicyLossSettings, logprobs: Tensor, entropy: Tensor, inputs: TokenInputs
) -> tuple[Tensor, Metrics]:
    """Return the whole loss of each token, and its metrics. Raises ValueError for an unknown name or a missing
    input."""
    check_name(settings)
    old = logprobs.detach() if inputs.old_logprobs is None else inputs.old_logprobs
    loss, metrics = SURROGATES[settings.loss](logprobs, old, inputs.advantages, settings)
    return with_terms(
        loss, metrics, settings, logprobs, entropy, old, inputs.rollout_logprobs, inputs.reference_logprobs
    )


def check_name(settings: PolicyLossSettings) -> None:
    """Raise ValueError for a loss of an unknown name."""
    if settings.loss not in SURROGATES:
        raise ValueError(f"unknown token-level loss {settings.loss!r}: known are {', '.join(SURROGATES)}")


def check(settings: PolicyLossSettings, rollout: Tensor | None, reference: Tensor | None) -> None:
    """Raise ValueError when log-probs are missing that the loss needs."""
    if settings.rollout_correction != "none" and rollout is None:
        raise ValueError(f"rollout_correction is {settings.rollout_correction!r}, but there are no rollout log-probs")
    if settings.kl_coefficient and reference is None:
        raise ValueError("kl_coefficient is not 0, but there are no reference log-probs")


def with_terms(
    loss: Tensor,
    metrics: Metrics,
    settings: PolicyLossSettings,
    logprobs: Tensor,
    entropy: Tensor,
    old: Tensor,
    rollout: Tensor | None,
    reference: Tensor | None,
) -> tuple[Tensor, Metrics]:
    """Return a surrogate times its rollout weight, plus KL to the reference, minus entropy bonus; and the metrics."""
    check(settings, rollout, reference)
    weights, correction_metrics = rollout_weights(old, rollout, settings)
    total = loss if weights is None else loss * weights
    metrics = {**ratio_metrics(logprobs.detach(), old, rollout), **metrics, **correction_metrics}
    if settings.kl_coefficient:
        assert reference is not None
        kl = kl_estimate(logprobs, reference, settings.kl_estimator)
        total = total + settings.kl_coefficient * kl
        metrics["reference_kl"] = kl.detach()
    if settings.entropy_coefficient:
        total = total - settings.entropy_coefficient * entropy
    return total, metrics


def ppo(logprobs: Tensor, old: Tensor, advantages: Tensor, settings: PolicyLossSettings) -> tuple[Tensor, Metrics]:
    """Return PPO's clipped surrogate (arXiv 1707.06347, equation 7), and its metrics."""
    return clipped_surrogate(clamped_log_ratio(logprobs, old).exp(), advantages, settings)


def clipped_surrogate(ratio: Tensor, advantages: Tensor, settings: PolicyLossSettings) -> tuple[Tensor, Metrics]:
    """Return `max(-r A, -clip(r, 1 - clip_low, 1 + clip_high) A)`, for A < 0 at most `-dual_clip A`; and its metrics.

    The asymmetric range is DAPO's (arXiv 2503.14476, equation 10). The dual clip is from arXiv 1912.09729, equation 5.
    """
    low, high = 1 - settings.clip_low, 1 + settings.clip_high
    loss = torch.maximum(-ratio * advantages, -ratio.clamp(low, high) * advantages)
    at = ratio.detach()
    metrics = {
        "clip_fraction_low": (advantages < 0) & (at < low),
        "clip_fraction_high": (advantages > 0) & (at > high),
    }
    if settings.dual_clip is not None:
        bound = -settings.dual_clip * advantages
        loss = torch.where(advantages < 0, torch.minimum(loss, bound), loss)
        metrics["clip_fraction_dual"] = (advantages < 0) & (at > settings.dual_clip)
    return loss, {name: where.to(loss.dtype) for name, where in metrics.items()}


def cispo(logprobs: Tensor, old: Tensor, advantages: Tensor, settings: PolicyLossSettings) -> tuple[Tensor, Metrics]:
    """Return `-sg(clip(r, ratio_min, ratio_max)) A logp` (MiniMax-M1, arXiv 2506.13585, equation 4), and its metrics.

    The importance weight is clipped, so no token loses its gradient. The bounds are of the ratio itself, not distances
    from 1.
    """
    ratio = clamped_log_ratio(logprobs.detach(), old).exp()
    loss = -ratio.clamp(settings.ratio_min, settings.ratio_max) * advantages * logprobs
    metrics = {
        "clip_fraction_low": (ratio < settings.ratio_min).to(loss.dtype),
        "clip_fraction_high": (ratio > settings.ratio_max).to(loss.dtype),
    }
    return loss, metrics


def sapo(logprobs: Tensor, old: Tensor, advantages: Tensor, settings: PolicyLossSettings) -> tuple[Tensor, Metrics]:
    """Return `-A (4 / tau) sigmoid(tau (r - 1))`, with tau by the sign of A (arXiv 2511.20347), and its metrics. The
    gradient at r = 1 is PPO's."""
    ratio = clamped_log_ratio(logprobs, old).exp()
    tau = torch.full_like(ratio, settings.sapo_temperature_negative)
    tau = tau.masked_fill(advantages > 0, settings.sapo_temperature_positive)
    gate = torch.sigmoid(tau * (ratio - 1))
    return -advantages * 4 / tau * gate, {"gradient_kept": (4 * gate * (1 - gate)).detach()}


SURROGATES = {"ppo": ppo, "cispo": cispo, "sapo": sapo}


def rollout_weights(old: Tensor, rollout: Tensor | None, settings: PolicyLossSettings) -> tuple[Tensor | None, Metrics]:
    """Return the detached weight of each token's loss, from w = exp(old - rollout), or None for 1; and its metrics.

    `tis` gives min(w, tis_cap) (truncated importance sampling). `icepop` gives w inside icepop_range, and 0 outside
    (arXiv 2510.18855). `correction_limited` is 1 for tokens that are truncated or masked: its mean is their share.
    """
    if settings.rollout_correction == "none":
        return None, {}
    assert rollout is not None
    raw = clamped_log_ratio(old.detach(), rollout).exp()
    if settings.rollout_correction == "tis":
        limited = raw > settings.tis_cap
        weights = raw.clamp(max=settings.tis_cap)
    else:
        low, high = settings.icepop_range
        limited = (raw < low) | (raw > high)
        weights = raw.masked_fill(limited, 0.0)
    return weights, {"correction_weight": weights, "correction_limited": limited.to(raw.dtype)}


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """Return estimates of KL(policy || reference) from the sampled token (http://joschu.net/blog/kl-approx.html): with
    d = reference - logprobs, k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1.

    As losses they differ: k1's gradient is zero in expectation, k2's is that of the KL on-policy, k3's is biased but
    bounded for tokens that the reference finds unlikely. In k3 d stays within +-20, without gradient where it is cut.
    """
    match estimator:
        case "k1":
            return logprobs - reference
        case "k2":
            return (logprobs - reference).square() / 2
        case "k3":
            difference = clamped_log_ratio(reference, logprobs)
            return torch.expm1(difference) - difference
        case _:
            raise ValueError(f"unknown estimator of the KL divergence {estimator!r}: known are k1, k2 and k3")


def ratio_metrics(now: Tensor, old: Tensor, rollout: Tensor | None) -> Metrics:
    """Return metrics of the ratio. `approx_kl` is the k3 estimate of KL(old || policy). `rollout_mismatch` compares
    trainer and engine at the same weights."""
    log_ratio = clamped_log_ratio(now, old)
    metrics = {
        "ratio": log_ratio.exp(),
        "ratio_cut": ((now - old).abs() > LOG_RATIO_LIMIT).to(now.dtype),
        "approx_kl": torch.expm1(log_ratio) - log_ratio,
    }
    return metrics if rollout is None else {**metrics, "rollout_mismatch": (old - rollout).abs()}


def clamped_log_ratio(logprobs: Tensor, baseline: Tensor) -> Tensor:
    """Return `logprobs - baseline` within +-20, without gradient where it is cut (the SvS code's clamp, seen in verl
    too)."""
    return (logprobs - baseline).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _finite_where(absent: Tensor, values: Tensor) -> Tensor:
    """Return `values` with 0 for those that are not finite, where `absent`."""
    return values.masked_fill(absent & ~values.isfinite(), 0)


def _autograd_inside_operators() -> AbstractContextManager[None]:
    """Let autograd record inside a registered operator, where torch has taken it out of the dispatch."""
    return torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
