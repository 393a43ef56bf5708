"""The token loss in one Triton kernel against the formulas in torch and their gradients by autograd."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsvs.kernels import PolicyLossSettings, TokenInputs, token_loss

TOKENS = 300  # more than one program's


def tokens(seed: int = 0, spread: float = 0.5, count: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor, TokenInputs]:
    """(log-probs, entropies, inputs); some advantages are 0, some ratios far away."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float = 1.0) -> torch.Tensor:
        return torch.randn(count, generator=generator) * scale

    logprobs = -normal().abs() - 0.1
    advantages = normal() * (torch.rand(count, generator=generator) > 0.1)
    old = logprobs + normal(spread)
    inputs = TokenInputs(
        advantages, torch.rand(count, generator=generator), old, old + normal(spread), logprobs + normal(spread)
    )
    return logprobs, normal().abs(), inputs


def compare(loss: PolicyLossSettings, logprobs, entropy, inputs, device, rows=slice(None)) -> None:
    """Values, slopes and metrics within fp32 rounding of the formulas in float64."""
    from fastsvs.kernels import token_loss_triton

    def wide(values):
        return None if values is None else values.double()

    exact = TokenInputs(*(wide(getattr(inputs, name)) for name in TokenInputs.__slots__))
    expected = token_loss.token_gradients(loss, logprobs.double(), entropy.double(), exact, rows)
    there = TokenInputs(
        *(None if (v := getattr(inputs, name)) is None else v.to(device) for name in TokenInputs.__slots__)
    )
    on_device = rows if isinstance(rows, slice) else rows.to(device)
    found = token_loss_triton.token_gradients(loss, logprobs.to(device), entropy.to(device), there, on_device)
    tolerance = {"rtol": 2e-6, "atol": 2e-6, "equal_nan": True}
    torch.testing.assert_close(found.loss.double().cpu(), expected.loss, **tolerance)
    torch.testing.assert_close(found.logprobs.double().cpu(), expected.logprobs, **tolerance)
    assert (found.entropy is None) == (expected.entropy is None)
    if found.entropy is not None:
        torch.testing.assert_close(found.entropy.double().cpu(), expected.entropy, **tolerance)
    assert list(found.metrics) == list(expected.metrics)
    for name, values in found.metrics.items():
        torch.testing.assert_close(values.double().cpu(), expected.metrics[name], **tolerance, msg=name)


@pytest.mark.parametrize(
    ("loss", "correction", "estimator"),
    list(product(["ppo", "cispo", "sapo"], ["none", "tis", "icepop"], [None, "k1", "k2", "k3"])),
)
def test_every_combination(device, loss, correction, estimator):
    options = PolicyLossSettings(
        loss=loss,
        rollout_correction=correction,
        kl_coefficient=0.3 if estimator else 0.0,
        kl_estimator=estimator or "k3",
        entropy_coefficient=0.01 if correction == "tis" else 0.0,
        dual_clip=None if estimator == "k1" else 3.0,
    )
    compare(options, *tokens(), device)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 999),
    spread=st.sampled_from([1e-4, 0.1, 1.0, 4.0]),
    low=st.floats(0, 0.9),
    high=st.floats(0, 3),
    dual=st.none() | st.floats(1.1, 5),
    loss=st.sampled_from(["ppo", "cispo", "sapo"]),
)
def test_any_numbers(device, seed, spread, low, high, dual, loss):
    options = PolicyLossSettings(
        loss=loss, clip_low=low, clip_high=high, dual_clip=dual, ratio_min=low, ratio_max=1 + high, kl_coefficient=1.0
    )
    logprobs, entropy, inputs = tokens(seed, spread, 20)
    compare(options, logprobs, entropy, inputs, device)


@pytest.mark.parametrize("loss", ["ppo", "cispo", "sapo"])
def test_far_away_ratios_are_cut_without_gradient(device, loss):
    logprobs, entropy, inputs = tokens(count=6)
    away = torch.tensor([25.0, -25.0, 19.0, -19.0, 500.0, -500.0])
    inputs = replace(
        inputs, old_logprobs=logprobs - away, rollout_logprobs=logprobs, reference_logprobs=logprobs + away
    )
    options = PolicyLossSettings(loss=loss, rollout_correction="icepop", kl_coefficient=1.0)
    compare(options, logprobs, entropy, inputs, device)


def test_on_policy_every_ratio_is_one(device):
    from fastsvs.kernels import token_loss_triton

    logprobs, entropy, inputs = tokens()
    inputs = TokenInputs(inputs.advantages, inputs.weights)
    compare(PolicyLossSettings(), logprobs, entropy, inputs, device)
    there = TokenInputs(inputs.advantages.to(device), inputs.weights.to(device))
    found = token_loss_triton.token_gradients(
        PolicyLossSettings(), logprobs.to(device), entropy.to(device), there, slice(None)
    )
    assert (found.metrics["ratio"] == 1).all()
    assert torch.equal(found.logprobs.cpu(), -inputs.advantages * inputs.weights)


@pytest.mark.parametrize("rows", [slice(5, 290), torch.arange(TOKENS)[::3]], ids=["slice", "indices"])
def test_a_part_of_the_tokens(device, rows):
    logprobs, entropy, inputs = tokens()
    compare(PolicyLossSettings(rollout_correction="tis"), logprobs[rows], entropy[rows], inputs, device, rows)


@pytest.mark.parametrize("loss", ["ppo", "cispo", "sapo"])
def test_nan_stays_nan(device, loss):
    from fastsvs.kernels import token_loss_triton

    logprobs, entropy, inputs = tokens(count=8)
    logprobs[3] = torch.nan
    there = TokenInputs(*(getattr(inputs, name).to(device) for name in TokenInputs.__slots__))
    found = token_loss_triton.token_gradients(
        PolicyLossSettings(loss=loss, kl_coefficient=1.0), logprobs.to(device), entropy.to(device), there, slice(None)
    )
    for values in (found.loss, found.logprobs, found.metrics["ratio"], found.metrics["reference_kl"]):
        assert values.isnan().tolist() == [i == 3 for i in range(8)]


def test_a_function_of_ones_own_goes_through_autograd(device):
    from fastsvs.kernels import token_loss_triton

    logprobs, entropy, inputs = tokens(count=8)
    inputs = TokenInputs(inputs.advantages.to(device), inputs.weights.to(device))
    found = token_loss_triton.token_gradients(
        lambda logp, entropy, rows: (logp.square() - 2 * entropy, {}),
        logprobs.to(device),
        entropy.to(device),
        inputs,
        slice(None),
    )
    torch.testing.assert_close(found.logprobs, 2 * logprobs.to(device) * inputs.weights)
    torch.testing.assert_close(found.entropy, -2 * inputs.weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "gspo"}, "unknown token-level loss 'gspo'"),
        ({"rollout_correction": "tis"}, "no rollout log-probs"),
        ({"kl_coefficient": 0.1}, "no reference log-probs"),
    ],
)
def test_what_is_missing_is_named(device, options, message):
    from fastsvs.kernels import token_loss_triton

    values = torch.zeros(2, device=device)
    for module in (token_loss, token_loss_triton):
        with pytest.raises(ValueError, match=message):
            module.token_gradients(
                PolicyLossSettings(**options), values, values, TokenInputs(values, values), slice(None)
            )


NOT_FINITE = [torch.nan, torch.inf, -torch.inf]


@pytest.mark.parametrize(
    ("loss", "correction", "estimator"),
    list(product(["ppo", "cispo", "sapo"], ["none", "tis", "icepop"], [None, "k1", "k2", "k3"])),
)
def test_a_token_of_weight_0_adds_nothing_whatever_its_inputs_hold(device, loss, correction, estimator):
    """Each of its inputs in turn is no number; the others' results stay as they are."""
    from fastsvs.kernels import token_loss_triton

    options = PolicyLossSettings(
        loss=loss,
        rollout_correction=correction,
        kl_coefficient=0.3 if estimator else 0.0,
        kl_estimator=estimator or "k3",
        entropy_coefficient=0.01,
    )
    logprobs, entropy, inputs = tokens(count=20)
    absent = torch.arange(20) % 2 == 0
    given = {name: getattr(inputs, name).clone() for name in TokenInputs.__slots__}
    given |= {"logprobs": logprobs.clone(), "entropy": entropy.clone()}
    given["weights"][absent] = 0.0
    names = [name for name in given if name != "weights"]
    places = product(names, NOT_FINITE)
    for place, (name, value) in zip(absent.nonzero().flatten().tolist() * 2, places, strict=False):
        given[name][place] = value
    there = {name: values.to(device) for name, values in given.items()}
    for module in (token_loss, token_loss_triton):
        found = module.token_gradients(
            options,
            there["logprobs"],
            there["entropy"],
            TokenInputs(**{name: there[name] for name in TokenInputs.__slots__}),
            slice(None),
        )
        finite = {name: getattr(inputs, name).to(device) for name in TokenInputs.__slots__}
        finite["weights"] = there["weights"]
        whole = module.token_gradients(
            options, logprobs.to(device), entropy.to(device), TokenInputs(**finite), slice(None)
        )
        for values, expected in (
            (found.loss, whole.loss),
            (found.logprobs, whole.logprobs),
            (found.entropy, whole.entropy),
            *((values, whole.metrics[name]) for name, values in found.metrics.items()),
        ):
            assert values.isfinite().all()
            assert torch.equal(values[~absent], expected[~absent])
        assert found.logprobs[absent].abs().max() == found.entropy[absent].abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_low": -3}, "clip_low must be at least 0, got -3"),
        ({"clip_high": -0.1}, "clip_high must be at least 0"),
        ({"clip_low": torch.nan}, "clip_low must be at least 0, got nan"),
        ({"dual_clip": 1.0}, "dual_clip must be above 1, or None, got 1.0"),
        ({"dual_clip": torch.nan}, "dual_clip must be above 1"),
        ({"ratio_min": 5.0, "ratio_max": 5.0}, "ratio_min must be at least 0 and below ratio_max"),
        ({"ratio_min": -1.0}, "ratio_min must be at least 0"),
        ({"sapo_temperature_positive": 0.0}, "sapo_temperature_positive must be above 0"),
        ({"sapo_temperature_negative": torch.inf}, "sapo_temperature_negative must be above 0 and finite"),
        ({"tis_cap": 0.0}, "tis_cap must be above 0"),
        ({"icepop_range": (2.0, 0.5)}, "icepop_range must be 0 <= low < high"),
        ({"icepop_range": (0.5,)}, "icepop_range must be 0 <= low < high"),
        ({"kl_coefficient": -0.1}, "kl_coefficient must be at least 0"),
        ({"kl_coefficient": torch.nan}, "kl_coefficient must be at least 0"),
        ({"entropy_coefficient": torch.inf}, "entropy_coefficient must be finite"),
        ({"rollout_correction": "tiss"}, "rollout_correction must be one of none, tis, icepop, got 'tiss'"),
        ({"kl_estimator": "k4"}, "kl_estimator must be one of k1, k2, k3, got 'k4'"),
    ],
)
def test_settings_outside_their_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        PolicyLossSettings(**options)


def test_an_unknown_estimator_is_named():
    with pytest.raises(ValueError, match="unknown estimator of the KL divergence 'k4'"):
        token_loss.kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


def test_the_names_of_the_metrics_are_those_of_the_formulas():
    for loss, correction, coefficient in product(["ppo", "cispo", "sapo"], ["none", "tis", "icepop"], [0.0, 0.1]):
        for dual_clip in (None, 3.0):
            options = PolicyLossSettings(
                loss=loss, rollout_correction=correction, kl_coefficient=coefficient, dual_clip=dual_clip
            )
            logprobs, entropy, inputs = tokens(count=3)
            _, metrics = token_loss.token_loss(options, logprobs, entropy, inputs)
            assert list(metrics) == token_loss.metric_names(options, inputs)
