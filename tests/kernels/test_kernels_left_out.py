"""`linear_policy_loss` that leaves out tokens whose gradients are least: how far off that may be, and is."""

import exact
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastsvs.kernels import (
    IGNORE_INDEX,
    Head,
    PolicyLossSettings,
    TokenInputs,
    linear_logprob_entropy,
    linear_policy_loss,
)
from fastsvs.kernels.left_out import gradient_bounds, that_count
from fastsvs.kernels.token_loss import token_loss

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
TOKENS, WIDTH, VOCAB = 150, 12, 90  # three pieces of at least 64 rows
SETTINGS = PolicyLossSettings(kl_coefficient=0.05, entropy_coefficient=0.02)


@given(
    spread=st.floats(1e-3, 100),
    temperature=st.floats(0.1, 10),
    columns=st.integers(1, 300),
    seed=st.integers(0, 1 << 20),
    h=st.floats(-2, 2),
)
@settings(max_examples=40, deadline=None)
def test_no_gradient_is_larger_than_its_bound(spread, temperature, columns, seed, h):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, columns, generator=generator, dtype=torch.float64) * spread
    targets, g = torch.randint(columns, (5,), generator=generator), torch.tensor([1.0, -2.0, 0.0, 1e-3, 7.0])
    slopes = g.double(), torch.full((5,), h, dtype=torch.float64)
    scale = torch.full((5,), temperature, dtype=torch.float64)
    size = exact.logits_gradient(logits, targets, *slopes, scale).abs().sum(1)
    logprobs, entropy = exact.values(logits, targets, scale)
    inverse = 1 / scale
    bounds = gradient_bounds(logprobs, entropy, inverse, *slopes)
    assert (size <= bounds * (1 + 1e-9) + 1e-12).all()
    alone = gradient_bounds(logprobs, entropy, inverse, slopes[0], None)
    of_logprobs = exact.logits_gradient(logits, targets, slopes[0], 0 * slopes[1], scale).abs().sum(1)
    torch.testing.assert_close(alone, of_logprobs, atol=1e-12, rtol=1e-6)  # not only a bound


@given(
    sizes=st.lists(st.floats(0, 1e6, width=32) | st.sampled_from([0.0, float("nan"), float("inf")]), min_size=1),
    tau=st.sampled_from([0.0, 2**-9, 0.1, 0.5, 0.999]),
)
@settings(deadline=None)
def test_the_least_go_as_long_as_they_are_within_the_share(sizes, tau):
    bounds = torch.tensor(sizes)
    counts = that_count(bounds, tau)
    finite = bounds.isfinite()
    assert counts[~finite].all()
    out, total = bounds[~counts].double(), bounds[finite].double().sum()
    assert out.sum() <= tau * total * (1 + 1e-9)
    kept = bounds[counts & finite].double()
    assert (bounds[counts] != 0).all()
    if len(kept):
        assert out.numel() == 0 or out.max() <= kept.min()
        assert out.sum() + kept.min() > tau * total * (1 - 1e-9)  # one more would be too many


def sample(dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0):
    """Rows from uniform to certain, with a bias, and what a loss needs. One token has no target, one has weight 0."""
    generator = torch.Generator(device="cpu").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weight, bias = normal(VOCAB, WIDTH), 0.1 * normal(VOCAB)
    likely = torch.randint(VOCAB, (TOKENS,), generator=generator)
    hidden = 0.3 * normal(TOKENS, WIDTH) + torch.linspace(0, 3, TOKENS)[:, None] * weight[likely]
    targets = likely.clone()
    targets[3::10], targets[7] = 5, IGNORE_INDEX
    leaves = [x.to(device, dtype).requires_grad_() for x in (hidden, weight, bias)]
    with torch.no_grad():
        old = linear_logprob_entropy(hidden, Head(weight, bias), targets)[0]
    given = [
        normal(TOKENS),
        torch.rand(TOKENS, generator=generator, dtype=torch.float64),
        old + 0.1 * normal(TOKENS),
        None,
        old + 0.1 * normal(TOKENS),
    ]
    given[1][11] = 0.0
    wide = dtype if dtype == torch.float64 else torch.float32
    return leaves, targets.to(device), TokenInputs(*(x if x is None else x.to(device, wide) for x in given))


def run(leaves, targets, inputs, **options):
    hidden, weight, bias = leaves
    result = linear_policy_loss(hidden, Head(weight, bias), targets, inputs, SETTINGS, **options)
    return result, torch.autograd.grad(result.loss, leaves)


@given(tau=st.sampled_from([0.0, 2**-9, 0.03, 0.3]), temperature=st.sampled_from([1.0, 0.6]), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_error_is_within_what_is_stated(tau, temperature, seed):
    """All is in float64, so that there is no other error: with entropy and KL terms, in several groups of pieces."""
    leaves, targets, inputs = sample(torch.float64, seed=seed)
    whole, true = run(leaves, targets, inputs, temperature=temperature)
    part, found = run(leaves, targets, inputs, temperature=temperature, exact=False, tau=tau, workspace_bytes=1)
    assert torch.allclose(part.loss, whole.loss, rtol=1e-12)
    assert torch.allclose(part.logprobs, whole.logprobs, rtol=1e-12)
    values = [x.clone().requires_grad_() for x in (whole.logprobs, whole.entropy)]
    kept = targets != IGNORE_INDEX
    loss, _ = token_loss(SETTINGS, *values, inputs)
    g, h = torch.autograd.grad((loss * inputs.weights)[kept].sum(), values)
    total = (2 * (g.abs() * -whole.logprobs.expm1() + h.abs() * whole.entropy) / temperature).sum()
    hidden, weight, _ = leaves
    off = [ours - exactly for ours, exactly in zip(found, true, strict=True)]
    allowed, rounding = tau * total, [1e-12 * gradient.norm() for gradient in true]
    assert off[0].norm(dim=1).sum() <= allowed * weight.norm(dim=1).max() + rounding[0]
    assert off[1].norm() <= allowed * hidden.norm(dim=1).max() + rounding[1]
    assert off[2].abs().sum() <= allowed + rounding[2]
    left_out = part.metrics["left_out"]
    assert left_out[7] == 0  # it has no target: it is no token of the loss
    assert left_out[11] == 1  # of weight 0
    assert (left_out.sum() > 5) == (tau > 0)
    assert set(part.metrics) == {*whole.metrics, "left_out"}


@pytest.mark.usefixtures("narrow")
def test_through_the_kernels_only_what_is_left_out_differs(device, cut):
    leaves, targets, inputs = sample(torch.bfloat16, device)
    _, true = run(leaves, targets, inputs)
    cut(least_rows=40, together=2)
    buffer = torch.zeros(VOCAB, WIDTH, device=device)
    options = {"exact": False, "tau": 0.05, "workspace_bytes": 1}
    part, found = run(leaves, targets, inputs, **options)
    _, twice = run(leaves, targets, inputs, **options)
    assert all(torch.equal(a, b) for a, b in zip(found, twice, strict=True))
    assert 5 < part.metrics["left_out"].sum() < TOKENS
    out = part.metrics["left_out"] == 1
    assert found[0][out].abs().max() == 0
    torch.testing.assert_close(found[0][~out], true[0][~out], rtol=2**-6, atol=1e-4)
    assert 0 < (found[1] - true[1]).norm() <= 0.1 * true[1].norm()
    hidden, weight, bias = leaves
    linear_policy_loss(hidden, Head(weight, bias), targets, inputs, SETTINGS, weight_grad=buffer, **options)
    torch.testing.assert_close(buffer.bfloat16(), found[1], rtol=2**-6, atol=1e-4)


def test_a_loss_of_your_own_and_no_tokens_have_the_metric_too():
    leaves, targets, inputs = sample(torch.float64)

    def loss(logprobs, entropy, tokens):
        return -inputs.advantages[tokens] * logprobs, {"mine": entropy.detach()}

    hidden, weight, _ = leaves
    for ids in (targets, torch.full_like(targets, IGNORE_INDEX)):
        result = linear_policy_loss(hidden, weight, ids, inputs, loss, exact=False, tau=0.1)
        assert set(result.metrics) == {"mine", "left_out"}
        assert len(result.metrics["left_out"]) == TOKENS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exact": False, "tau": 1.0}, r"tau must lie in \[0, 1\), got 1.0"),
        ({"exact": False, "tau": -0.1}, r"tau must lie in \[0, 1\)"),
        ({"exact": False, "validate": False}, "validate must be True"),
    ],
)
def test_what_cannot_be_is_named(options, message):
    leaves, targets, inputs = sample(torch.float64)
    with pytest.raises(ValueError, match=message):
        run(leaves, targets, inputs, **options)
