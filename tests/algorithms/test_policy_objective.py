"""Composition: rollout correction, KL to the reference, entropy bonus, metrics."""

import math
from dataclasses import replace

import pytest
import torch

from fastsvs.algorithms import LOSSES, policy_loss
from fastsvs.config import AlgorithmConfig
from fastsvs.errors import UserError

PLAIN = AlgorithmConfig()


def compute(config, terms):
    return policy_loss(config)(terms, config)


def gradient(loss, wrt):
    return torch.autograd.grad(loss.sum(), wrt, retain_graph=True)[0]


def test_plain_objective_is_the_surrogate(make_terms):
    terms = make_terms()
    assert torch.equal(compute(PLAIN, terms).loss, LOSSES.get("ppo")(terms, PLAIN).loss)


def slow_weight(old: float, rollout: float, config: AlgorithmConfig) -> float:
    weight = math.exp(old - rollout)
    if config.rollout_correction == "tis":
        return min(weight, config.tis_cap)
    low, high = config.icepop_range
    return weight if low <= weight <= high else 0.0


@pytest.mark.parametrize("mode", ["tis", "icepop"])
@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo", "sapo"])
def test_rollout_correction_scales_loss_and_gradient(make_terms, mode, name):
    terms = make_terms(lengths=(30, 20, 4), spread=1.0)
    config = AlgorithmConfig(loss=name, rollout_correction=mode, tis_cap=1.5, icepop_range=(0.5, 2.0))
    pairs = zip(terms.old_logprobs.tolist(), terms.rollout_logprobs.tolist(), strict=True)
    weights = torch.tensor([slow_weight(old, rollout, config) for old, rollout in pairs], dtype=torch.float64)
    plain, corrected = LOSSES.get(name)(terms, config), compute(config, terms)
    torch.testing.assert_close(corrected.loss, plain.loss * weights)
    torch.testing.assert_close(gradient(corrected.loss, terms.logprobs), gradient(plain.loss, terms.logprobs) * weights)
    torch.testing.assert_close(corrected.metrics["correction_weight"], weights)
    limited = weights == (1.5 if mode == "tis" else 0.0)
    assert torch.equal(corrected.metrics["correction_limited"], limited.double())
    assert 0 < limited.sum() < len(weights)


@pytest.mark.parametrize(
    ("estimator", "value", "coefficient"),
    [
        ("k1", lambda d: -d, lambda d: 1.0),
        ("k2", lambda d: d * d / 2, lambda d: -d),
        ("k3", lambda d: math.exp(d) - d - 1, lambda d: 1 - math.exp(d)),
    ],
)
def test_kl_to_the_reference(make_terms, estimator, value, coefficient):
    terms = make_terms()
    config = AlgorithmConfig(kl_coefficient=0.3, kl_estimator=estimator)
    differences = (terms.reference_logprobs - terms.logprobs).tolist()
    result = compute(config, terms)
    plain = compute(PLAIN, terms)
    expected = torch.tensor([value(d) for d in differences], dtype=torch.float64)
    torch.testing.assert_close(result.metrics["reference_kl"], expected)
    torch.testing.assert_close(result.loss - plain.loss, 0.3 * expected)
    slope = gradient(result.loss, terms.logprobs) - gradient(plain.loss, terms.logprobs)
    torch.testing.assert_close(slope, 0.3 * torch.tensor([coefficient(d) for d in differences], dtype=torch.float64))


def test_k3_keeps_its_digits_near_the_reference(make_terms):
    """exp(d) - d - 1 in fp32 is all rounding error at d = 1e-3, which is where a KL-regularised run lives."""
    terms = make_terms()
    near = replace(terms, logprobs=terms.old_logprobs.float(), reference_logprobs=(terms.old_logprobs + 1e-3).float())
    near = replace(near, old_logprobs=near.logprobs, advantages=near.advantages.float())
    config = AlgorithmConfig(kl_coefficient=1.0)
    difference = (near.reference_logprobs - near.logprobs).double()
    exact = torch.special.expm1(difference) - difference
    measured = compute(config, near).metrics["reference_kl"].double()
    torch.testing.assert_close(measured, exact, rtol=1e-3, atol=0)


def test_far_reference_stays_finite(make_terms):
    terms = make_terms()
    terms = replace(terms, reference_logprobs=terms.old_logprobs + 500)
    result = compute(AlgorithmConfig(kl_coefficient=1.0), terms)
    assert result.loss.isfinite().all()


def test_entropy_bonus(make_terms):
    terms = make_terms()
    config = AlgorithmConfig(entropy_coefficient=0.01)
    result = compute(config, terms)
    torch.testing.assert_close(result.loss, compute(PLAIN, terms).loss - 0.01 * terms.entropy)
    assert torch.equal(gradient(result.loss, terms.entropy), torch.full_like(terms.entropy, -0.01))


def test_gradcheck_of_everything_together(make_terms):
    terms = make_terms()
    config = AlgorithmConfig(rollout_correction="tis", kl_coefficient=0.2, entropy_coefficient=0.05)
    loss = policy_loss(config)

    def function(logprobs, entropy):
        return loss(replace(terms, logprobs=logprobs, entropy=entropy), config).loss

    assert torch.autograd.gradcheck(function, (terms.logprobs, terms.entropy))


def test_metrics_are_detached_per_token_values(make_terms):
    terms = make_terms()
    config = AlgorithmConfig(rollout_correction="icepop", kl_coefficient=0.1)
    metrics = compute(config, terms).metrics
    log_ratio = (terms.logprobs - terms.old_logprobs).detach()
    torch.testing.assert_close(metrics["ratio"], log_ratio.exp())
    torch.testing.assert_close(metrics["approx_kl"], log_ratio.exp() - 1 - log_ratio)
    torch.testing.assert_close(metrics["rollout_mismatch"], (terms.old_logprobs - terms.rollout_logprobs).abs())
    assert not metrics["ratio_cut"].any()
    for values in metrics.values():
        assert values.shape == terms.logprobs.shape
        assert not values.requires_grad


def test_a_cut_ratio_is_counted(make_terms):
    terms = make_terms(lengths=(4,))
    far = terms.old_logprobs + torch.tensor([0.0, 21.0, -21.0, 19.0])
    assert compute(PLAIN, replace(terms, logprobs=far)).metrics["ratio_cut"].tolist() == [0, 1, 1, 0]


def test_missing_reference_is_an_error(make_terms):
    terms = replace(make_terms(), reference_logprobs=None)
    with pytest.raises(ValueError, match="no reference log-probs"):
        compute(AlgorithmConfig(kl_coefficient=0.1), terms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "pppo"}, "unknown policy loss 'pppo'"),
        ({"ratio_min": 2.0, "ratio_max": 1.0}, "ratio_min, ratio_max must be"),
        ({"icepop_range": (5.0, 0.5)}, "icepop_range must be"),
    ],
)
def test_a_faulty_configuration_is_found_before_training(options, message):
    with pytest.raises(UserError, match=message):
        policy_loss(AlgorithmConfig(**options))
