"""`linear_policy_loss` against float64 through whole logits, in torch and through the Triton kernels."""

from dataclasses import fields, replace

import pytest
import torch
import triton_interpreter
from torch import Tensor

from fastsvs.kernels import (
    IGNORE_INDEX,
    PolicyLossSettings,
    TokenInputs,
    dispatch,
    linear_logprob_entropy,
    linear_policy_loss,
)
from fastsvs.kernels.token_loss import token_loss

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

ULP = {torch.float32: 2**-23, torch.bfloat16: 2**-7, torch.float64: 2**-52}
"""Triton's interpreter truncates."""
EVERYTHING = {"rollout_correction": "tis", "kl_coefficient": 0.2, "entropy_coefficient": 0.05}
LOSSES = [PolicyLossSettings(loss=name, **EVERYTHING) for name in ("ppo", "cispo", "sapo")]


@pytest.fixture(params=["torch", "triton"])
def kernels(request) -> torch.device:
    """Which implementation runs, by the device of the tensors."""
    return torch.device("cpu") if request.param == "torch" else request.getfixturevalue("device")


@pytest.fixture(params=[None, 1], ids=["one_piece", "groups"])
def workspace(request, cut) -> int | None:
    """Bytes: for all tokens at once, or for no more than five; two such pieces make a group."""
    cut(least_rows=5, row_multiple=1, together=2)
    return request.param


def sample(device, dtype=torch.float32, tokens: int = 23, width: int = 32, vocab: int = 97):
    """(hidden, weight, targets, inputs); ratios on both sides of the clip range."""
    generator = torch.Generator().manual_seed(tokens)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    hidden = normal(tokens, width).to(device, dtype).requires_grad_()
    weight = (normal(vocab, width) * 2 / width**0.5).to(device, dtype).requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=generator).to(device)
    with torch.no_grad():
        logprobs, _ = linear_logprob_entropy(hidden, weight, targets)
    near = [logprobs + (0.4 * normal(tokens)).to(device) for _ in range(3)]
    weights = torch.rand(tokens, generator=generator).to(device) / tokens
    return hidden, weight, targets, TokenInputs(normal(tokens).to(device), weights, *near)


def objective(hidden, weight, targets, inputs, loss, temperature=1.0, vocab_size=None) -> Tensor:
    """By way of whole logits, in the inputs' own precision."""
    logits = hidden @ weight.t()
    logp = (logits[:, :vocab_size] / torch.as_tensor(temperature).reshape(-1, 1).to(logits)).log_softmax(-1)
    chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    values, _ = token_loss(loss, chosen, -(logp.exp() * logp).sum(-1), inputs)
    return (values * inputs.weights)[targets != IGNORE_INDEX].sum()


def exact(hidden, weight, targets, inputs, loss, **options) -> tuple[Tensor, Tensor, Tensor]:
    """(objective, its gradients in hidden and weight) in float64."""
    x, w = (tensor.detach().double().requires_grad_() for tensor in (hidden, weight))
    wide = {f.name: getattr(inputs, f.name) for f in fields(inputs) if getattr(inputs, f.name) is not None}
    wide = TokenInputs(**{name: values.double() for name, values in wide.items()})
    total = objective(x, w, targets, wide, loss, **options)
    return total.detach(), *torch.autograd.grad(total, (x, w))


@pytest.mark.parametrize(
    ("loss", "temperature"),
    [*zip(LOSSES, (1.0, 0.7, "per token"), strict=True), (LOSSES[0], "per token")],
    ids=lambda value: getattr(value, "loss", str(value)),
)
def test_matches_float64(kernels, workspace, loss, temperature):
    hidden, weight, targets, inputs = sample(kernels)
    temperature = torch.linspace(0.5, 2, 23, device=kernels) if temperature == "per token" else temperature
    result = linear_policy_loss(
        hidden, weight, targets, inputs, loss, temperature=temperature, workspace_bytes=workspace
    )
    found = result.loss.detach(), *torch.autograd.grad(result.loss, (hidden, weight))
    expected = exact(hidden, weight, targets, inputs, loss, temperature=temperature)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-6, rtol=1e-5)
    logprobs, entropy = linear_logprob_entropy(
        hidden, weight, targets, temperature=temperature, workspace_bytes=workspace
    )
    assert torch.equal(result.logprobs, logprobs)  # so that a ratio of them is exactly 1
    assert torch.equal(result.entropy, entropy)
    _, metrics = token_loss(loss, logprobs, entropy, inputs)
    assert list(result.metrics) == list(metrics)
    for name, values in result.metrics.items():
        assert not values.requires_grad
        torch.testing.assert_close(values, metrics[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.loss)
def test_bf16_is_no_less_exact_than_plain_torch(kernels, loss):
    hidden, weight, targets, inputs = sample(kernels, torch.bfloat16, 64, 64, 1000)
    expected = exact(hidden, weight, targets, inputs, loss)
    plain = objective(hidden, weight, targets, inputs, loss)
    theirs = plain.detach(), *torch.autograd.grad(plain, (hidden, weight))
    result = linear_policy_loss(hidden, weight, targets, inputs, loss)
    ours = result.loss.detach(), *torch.autograd.grad(result.loss, (hidden, weight))
    for a, b, truth in zip(ours, theirs, expected, strict=True):
        assert (a.double() - truth).norm() <= (b.double() - truth).norm()
    assert all(grad.dtype == torch.bfloat16 for grad in ours[1:])


def test_on_policy_every_ratio_is_exactly_one(kernels):
    hidden, weight, targets, inputs = sample(kernels)
    result = linear_policy_loss(
        hidden, weight, targets, TokenInputs(inputs.advantages, inputs.weights), PolicyLossSettings()
    )
    assert (result.metrics["ratio"] == 1).all()
    torch.testing.assert_close(result.loss, -(inputs.advantages * inputs.weights).sum())


def test_ignored_tokens_are_as_if_absent(kernels, workspace):
    hidden, weight, targets, inputs = sample(kernels)
    kept = torch.arange(23, device=kernels) % 3 != 1
    loss = LOSSES[0]
    result = linear_policy_loss(
        hidden, weight, targets.where(kept, IGNORE_INDEX), inputs, loss, workspace_bytes=workspace
    )
    alone = linear_policy_loss(hidden[kept], weight, targets[kept], inputs.at(kept), loss, workspace_bytes=workspace)
    assert torch.equal(result.loss, alone.loss)
    for found, expected in (
        (result.logprobs, alone.logprobs),
        (result.entropy, alone.entropy),
        *((values, alone.metrics[name]) for name, values in result.metrics.items()),
    ):
        assert torch.equal(found[kept], expected)
        assert found[~kept].abs().max() == 0
    hidden_grad, weight_grad = torch.autograd.grad(result.loss, (hidden, weight))
    assert hidden_grad[~kept].abs().max() == 0
    assert torch.equal(weight_grad, torch.autograd.grad(alone.loss, weight)[0])


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.loss)
@pytest.mark.parametrize("tokens", [0, 7])
def test_nothing_to_compute(kernels, tokens, loss):
    hidden, weight, some, inputs = sample(kernels)
    targets = torch.full((tokens,), IGNORE_INDEX, device=kernels)
    result = linear_policy_loss(hidden[:tokens], weight, targets, inputs.at(slice(tokens)), loss)
    usual = linear_policy_loss(hidden, weight, some, inputs, loss)
    assert list(result.metrics) == list(usual.metrics)  # so that ranks can reduce them by name
    assert all(torch.equal(values.cpu(), torch.zeros(tokens)) for values in result.metrics.values())
    assert result.loss == 0
    assert torch.equal(result.logprobs.cpu(), torch.zeros(tokens))
    grads = torch.autograd.grad(result.loss, (hidden, weight))
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


def test_padding_has_no_probability_and_no_gradient(kernels, workspace):
    hidden, weight, targets, inputs = sample(kernels)
    padded = torch.cat([weight.detach(), torch.full((14, 32), 3.0, device=kernels)]).requires_grad_()
    loss = LOSSES[0]
    alone = linear_policy_loss(hidden, weight, targets, inputs, loss, workspace_bytes=workspace)
    found = linear_policy_loss(hidden, padded, targets, inputs, loss, vocab_size=97, workspace_bytes=workspace)
    torch.testing.assert_close(found.loss, alone.loss)
    (gradient,) = torch.autograd.grad(found.loss, padded)
    assert gradient[97:].abs().max() == 0
    torch.testing.assert_close(gradient[:97], torch.autograd.grad(alone.loss, weight)[0])


def test_a_given_buffer_gets_the_gradient_of_the_weight(kernels, workspace):
    hidden, weight, targets, inputs = sample(kernels)
    plain = linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0], workspace_bytes=workspace)
    expected = torch.autograd.grad(plain.loss, (hidden, weight))
    buffer = torch.full_like(weight, 0.5, requires_grad=False)
    result = linear_policy_loss(
        hidden, weight, targets, inputs, LOSSES[0], weight_grad=buffer, workspace_bytes=workspace
    )
    result.loss.backward()
    assert weight.grad is None
    assert torch.equal(hidden.grad, expected[0])
    torch.testing.assert_close(buffer - 0.5, expected[1], atol=1e-6, rtol=1e-5)


def test_a_scaled_loss_has_scaled_gradients():
    hidden, weight, targets, inputs = sample("cpu")
    once, twice = (
        torch.autograd.grad(
            factor * linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0]).loss, (hidden, weight)
        )
        for factor in (1, 2)
    )
    assert all(torch.equal(2 * a, b) for a, b in zip(once, twice, strict=True))
    result = linear_policy_loss(
        hidden, weight, targets, inputs, LOSSES[0], weight_grad=torch.zeros_like(weight, requires_grad=False)
    )
    with pytest.raises(RuntimeError, match="not scaled"):
        (2 * result.loss).backward()


def test_its_gradients_can_be_taken_once():
    hidden, weight, targets, inputs = sample("cpu")
    result = linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0])
    result.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        result.loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(0, 5), (3, 7), (40, 1000)])
def test_scaling_in_place(kernels, dtype, shape, monkeypatch):
    if triton_interpreter.LOADED and dtype != torch.float64:
        from fastsvs.kernels import scale_triton

        monkeypatch.setattr(scale_triton, "PROGRAMS", 3)  # so that each goes round more than once
        functions = [dispatch.scale, scale_triton.scale]
    else:
        functions = [dispatch.scale]
    for scale in functions:
        values = torch.linspace(-3, 5, shape[0] * shape[1], device=kernels).view(shape).to(dtype)
        same, scaled = values.clone(), values.clone()
        scale(same, torch.ones((), device=kernels))
        scale(scaled, torch.full((), -0.625, device=kernels))
        assert torch.equal(same, values)
        torch.testing.assert_close(scaled.double(), values.double() * -0.625, atol=0, rtol=ULP[dtype])


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_what_is_frozen_costs_no_gradient(frozen):
    hidden, weight, targets, inputs = sample("cpu")
    expected = torch.autograd.grad(
        linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0]).loss, (hidden, weight)
    )
    x = hidden if frozen == "weight" else hidden.detach()
    w = weight if frozen == "hidden" else weight.detach()
    result = linear_policy_loss(x, w, targets, inputs, LOSSES[0])
    assert result.loss.requires_grad == (frozen != "both")
    if frozen != "both":
        moving, gradient = (x, expected[0]) if frozen == "weight" else (w, expected[1])
        assert torch.equal(torch.autograd.grad(result.loss, moving)[0], gradient)
    with torch.no_grad():
        assert torch.equal(linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0]).loss, result.loss)


def test_a_loss_of_ones_own(kernels, workspace):
    """It sees which tokens it has; the result is that of the same loss on whole log-probs."""
    hidden, weight, targets, inputs = sample(kernels)
    targets[4] = IGNORE_INDEX
    rise = torch.linspace(0, 1, 23, device=kernels)

    def own(logprobs, entropy, rows):
        return rise[rows] * logprobs.square() - 0.1 * entropy, {"rise": rise[rows]}

    result = linear_policy_loss(hidden, weight, targets, inputs, own, workspace_bytes=workspace)
    logprobs, entropy = linear_logprob_entropy(hidden, weight, targets)
    expected = ((rise * logprobs.square() - 0.1 * entropy) * inputs.weights).sum()
    torch.testing.assert_close(result.loss, expected)
    for a, b in zip(*(torch.autograd.grad(x, (hidden, weight)) for x in (result.loss, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert torch.equal(result.metrics["rise"], rise.masked_fill(targets == IGNORE_INDEX, 0.0))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.loss)
def test_tokens_of_weight_0_may_have_no_numbers(kernels, workspace, loss):
    """Their inputs reach neither the loss nor a gradient; nor by way of a loss of one's own."""
    hidden, weight, targets, inputs = sample(kernels)
    absent = torch.arange(23, device=kernels) % 4 == 1
    weights = inputs.weights.masked_fill(absent, 0.0)
    broken = {name: getattr(inputs, name).masked_fill(absent, torch.nan) for name in TokenInputs.__slots__}
    broken = TokenInputs(**broken | {"weights": weights})
    whole = replace(inputs, weights=weights)

    def own(logprobs, entropy, rows):
        return broken.advantages[rows] * logprobs - entropy, {"own": broken.advantages[rows]}

    for formula, expected in ((loss, linear_policy_loss(hidden, weight, targets, whole, loss)), (own, None)):
        found = linear_policy_loss(hidden, weight, targets, broken, formula, workspace_bytes=workspace)
        grads = torch.autograd.grad(found.loss, (hidden, weight))
        assert all(values.isfinite().all() for values in (found.loss, *grads, *found.metrics.values()))
        assert grads[0][absent].abs().max() == 0
        if expected is not None:
            torch.testing.assert_close(found.loss, expected.loss)
            for ours, theirs in zip(grads, torch.autograd.grad(expected.loss, (hidden, weight)), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_twice_the_same_bits(kernels, workspace):
    hidden, weight, targets, inputs = sample(kernels)
    first, second = (
        torch.autograd.grad(
            linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0], workspace_bytes=workspace).loss,
            (hidden, weight),
        )
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_vectors_at_any_stride(kernels, cut):
    cut(least_rows=5, row_multiple=1)
    hidden, weight, targets, inputs = sample(kernels)
    options = {"temperature": torch.linspace(0.5, 2, 23, device=kernels), "workspace_bytes": 1}
    inputs = replace(inputs, weights=torch.full((23,), 0.1, device=kernels))
    expected = linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0], **options)

    def strided(values: Tensor) -> Tensor:
        return torch.stack([values, values.flip(0)], 1)[:, 0]

    given = {name: strided(getattr(inputs, name)) for name in TokenInputs.__slots__}
    given["weights"] = torch.full((1,), 0.1, device=kernels).expand(23)
    options["temperature"] = strided(options["temperature"])
    found = linear_policy_loss(hidden, weight, strided(targets), TokenInputs(**given), LOSSES[0], **options)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.logprobs, expected.logprobs)
    for a, b in zip(*(torch.autograd.grad(x.loss, (hidden, weight)) for x in (found, expected)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"advantages": torch.zeros(22)},
            r"inputs.advantages must be floating \[23\] on cpu, got .* \[22\]",
        ),
        ({"weights": torch.ones(23, dtype=torch.int64)}, r"inputs.weights must be floating .* got torch.int64"),
        ({"old_logprobs": torch.zeros(23, device="meta")}, r"inputs.old_logprobs must be .* on meta"),
        ({"reference_logprobs": torch.zeros(23, 1)}, r"inputs.reference_logprobs must be .* \[23, 1\]"),
    ],
)
def test_an_input_that_does_not_fit_is_named(change, message):
    hidden, weight, targets, inputs = sample("cpu")
    with pytest.raises(ValueError, match=message):
        linear_policy_loss(hidden, weight, targets, replace(inputs, **change), LOSSES[0])


@pytest.mark.parametrize(
    "buffer", [torch.zeros(97, 31), torch.zeros(97, 32, dtype=torch.bfloat16)], ids=["shape", "dtype"]
)
def test_a_buffer_that_does_not_fit_is_named(buffer):
    hidden, weight, targets, inputs = sample("cpu")
    with pytest.raises(ValueError, match=r"weight_grad must be torch\.float32 \[97, 32\]"):
        linear_policy_loss(hidden, weight, targets, inputs, LOSSES[0], weight_grad=buffer)
