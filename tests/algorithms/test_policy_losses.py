"""Each loss against a per-token float64 version of its formula, its gradient against the coefficient dL/dlogp."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastsvs.algorithms import LOSSES, TokenTerms
from fastsvs.config import AlgorithmConfig
from fastsvs.errors import UserError

CONFIG = AlgorithmConfig(clip_low=0.2, clip_high=0.28, dual_clip=1.5, ratio_min=0.6, ratio_max=1.4)


def slow_ppo(ratio: float, a: float, c: AlgorithmConfig) -> tuple[float, float]:
    """(loss, coefficient)"""
    clipped = min(max(ratio, 1 - c.clip_low), 1 + c.clip_high)
    loss = -min(ratio * a, clipped * a)
    active = ratio <= 1 + c.clip_high if a >= 0 else ratio >= 1 - c.clip_low
    if a < 0 and c.dual_clip is not None:
        loss = min(loss, -c.dual_clip * a)
        active = active and ratio <= c.dual_clip
    return loss, -a * ratio * active


def slow_cispo(ratio: float, a: float, logprob: float, c: AlgorithmConfig) -> tuple[float, float]:
    weight = min(max(ratio, c.ratio_min), c.ratio_max)
    return -weight * a * logprob, -a * weight


def slow_sapo(ratio: float, a: float, c: AlgorithmConfig) -> tuple[float, float]:
    tau = c.sapo_temperature_positive if a > 0 else c.sapo_temperature_negative
    gate = 1 / (1 + math.exp(-tau * (ratio - 1)))
    return -a * 4 / tau * gate, -4 * a * gate * (1 - gate) * ratio


def slow(name: str, terms: TokenTerms, config: AlgorithmConfig) -> list[tuple[float, float]]:
    logprobs, old = terms.logprobs.tolist(), terms.old_logprobs.tolist()
    sequence, advantages = terms.sequence.tolist(), terms.advantages.tolist()
    rows = []
    for t, (logprob, before, a) in enumerate(zip(logprobs, old, advantages, strict=True)):
        ratio = math.exp(logprob - before)
        if name == "gspo":
            own = [logprobs[u] - old[u] for u in range(len(old)) if sequence[u] == sequence[t]]
            ratio = math.exp(math.fsum(own) / len(own))
        match name:
            case "ppo" | "gspo":
                rows.append(slow_ppo(ratio, a, config))
            case "cispo":
                rows.append(slow_cispo(ratio, a, logprob, config))
            case "sapo":
                rows.append(slow_sapo(ratio, a, config))
    return rows


@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo", "sapo"])
@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize("seed", range(4))
def test_loss_and_coefficient(make_terms, name, dual_clip, seed):
    config = CONFIG.model_copy(update={"dual_clip": dual_clip})
    terms = make_terms(lengths=(5, 1, 8, 20, 3), seed=seed)
    loss = LOSSES.get(name)(terms, config).loss
    (coefficient,) = torch.autograd.grad(loss.sum(), terms.logprobs)
    expected = torch.tensor(slow(name, terms, config), dtype=torch.float64)
    torch.testing.assert_close(loss, expected[:, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(coefficient, expected[:, 1], rtol=1e-12, atol=1e-12)


@given(
    log_ratio=st.floats(-3, 3),
    advantage=st.floats(-4, 4),
    low=st.floats(0, 0.9),
    high=st.floats(0, 2),
    dual=st.none() | st.floats(1.01, 6),
)
def test_ppo_everywhere(log_ratio, advantage, low, high, dual):
    config = AlgorithmConfig(clip_low=low, clip_high=high, dual_clip=dual)
    logprob = torch.tensor([log_ratio - 1], dtype=torch.float64)
    old = torch.tensor([-1.0], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.int64)
    terms = TokenTerms(logprob, old, old, old, None, torch.tensor([advantage], dtype=torch.float64), zero, 1)
    ratio = math.exp((logprob - old).item())
    expected, _ = slow_ppo(ratio, advantage, config)
    assert LOSSES.get("ppo")(terms, config).loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["ppo", "sapo"])
def test_gradcheck(make_terms, name):
    terms = make_terms()
    assert torch.autograd.gradcheck(
        lambda logprobs: LOSSES.get(name)(replace(terms, logprobs=logprobs), CONFIG).loss, (terms.logprobs,)
    )


def test_gspo_has_the_gradient_of_the_sequence_objective(make_terms):
    """mean over sequences of max(-s A, -clip(s) A), s the geometric mean of the sequence's token ratios."""
    terms = make_terms(lengths=(4, 7, 2, 5), spread=0.3, seed=3)
    config = AlgorithmConfig(clip_low=0.1, clip_high=0.1, dual_clip=None)
    objective = []
    for index in range(terms.sequences):
        own = terms.sequence == index
        s = (terms.logprobs[own] - terms.old_logprobs[own]).mean().exp()
        a = terms.advantages[own][0]
        objective.append(torch.maximum(-s * a, -s.clamp(0.9, 1.1) * a))
    (expected,) = torch.autograd.grad(torch.stack(objective).mean(), terms.logprobs)
    lengths = torch.bincount(terms.sequence).double()
    weights = (1 / (terms.sequences * lengths))[terms.sequence]
    loss = (weights * LOSSES.get("gspo")(terms, config).loss).sum()
    (gradient,) = torch.autograd.grad(loss, terms.logprobs)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(loss, torch.stack(objective).mean())


@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo", "sapo"])
def test_on_policy_gradient_is_the_policy_gradient(make_terms, name):
    terms = make_terms()
    terms = replace(terms, old_logprobs=terms.logprobs.detach())
    loss = LOSSES.get(name)(terms, AlgorithmConfig(loss=name)).loss
    (coefficient,) = torch.autograd.grad(loss.sum(), terms.logprobs)
    torch.testing.assert_close(coefficient, -terms.advantages)


@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo", "sapo"])
@pytest.mark.parametrize("log_ratio", [-300.0, 300.0])
def test_far_ratios_stay_finite(make_terms, name, log_ratio):
    terms = make_terms()
    terms = replace(terms, logprobs=(terms.old_logprobs + log_ratio).requires_grad_())
    loss = LOSSES.get(name)(terms, AlgorithmConfig(dual_clip=None)).loss
    (coefficient,) = torch.autograd.grad(loss.sum(), terms.logprobs)
    assert loss.isfinite().all()
    assert coefficient.isfinite().all()
    if name != "cispo":
        assert not coefficient.any()


def test_clip_fractions_mark_the_tokens_without_gradient(make_terms):
    terms = make_terms(lengths=(40, 40, 40, 40, 1), spread=0.8, seed=1)
    result = LOSSES.get("ppo")(terms, CONFIG)
    (coefficient,) = torch.autograd.grad(result.loss.sum(), terms.logprobs)
    marked = sum(result.metrics[f"clip_fraction_{side}"] for side in ("low", "high", "dual"))
    live = terms.advantages != 0
    assert set(marked[live].tolist()) == {0.0, 1.0}
    torch.testing.assert_close(marked[live], (coefficient[live] == 0).double())
    for side in ("low", "high", "dual"):
        assert result.metrics[f"clip_fraction_{side}"].any(), side


def test_cispo_counts_what_it_bounds(make_terms):
    terms = make_terms(lengths=(60,), spread=0.8)
    metrics = LOSSES.get("cispo")(terms, CONFIG).metrics
    ratio = (terms.logprobs - terms.old_logprobs).exp()
    assert metrics["clip_fraction_low"].sum() == (ratio < 0.6).sum() > 0
    assert metrics["clip_fraction_high"].sum() == (ratio > 1.4).sum() > 0


def test_unknown_loss_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown policy loss 'gpso'.*Did you mean 'gspo'"):
        LOSSES.get("gpso")
