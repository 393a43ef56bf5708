"""Inputs as people have them: batches, integers, dtypes, biases, softcaps, truncated sampling, the largest entries."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fastsvs.kernels import (
    IGNORE_INDEX,
    Head,
    PolicyLossSettings,
    TokenInputs,
    Truncation,
    linear_logprob_entropy,
    linear_mean_logprob,
    linear_policy_loss,
    linear_top_logprobs,
    logprob_entropy,
)

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

BATCH, LENGTH, WIDTH, VOCAB = 3, 5, 8, 41
SETTINGS = PolicyLossSettings(entropy_coefficient=0.05, dual_clip=None)


@pytest.fixture(params=["torch", "triton"])
def kernels(request) -> torch.device:
    """Which implementation runs, by the device of the tensors."""
    return torch.device("cpu") if request.param == "torch" else request.getfixturevalue("device")


def sample(device="cpu", dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(hidden [batch, length, width], weight, bias, targets [batch, length])."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((BATCH, LENGTH, WIDTH), (VOCAB, WIDTH), (VOCAB,))
    leaves = (torch.randn(*shape, generator=generator, dtype=torch.float64) * 1.5 for shape in shapes)
    targets = torch.randint(VOCAB, (BATCH, LENGTH), generator=generator).to(device)
    return *(leaf.to(device, dtype).requires_grad_() for leaf in leaves), targets


def whole_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = hidden @ head.weight.t()
    logits = logits if head.bias is None else logits + head.bias
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def expected(logits: Tensor, targets: Tensor, ignore: int = IGNORE_INDEX) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probs, entropies, logsumexps) by way of whole logits; 0 for ignored tokens."""
    logp = logits.log_softmax(-1)
    chosen = logp.gather(-1, targets.clamp(0).long()[..., None])[..., 0]
    entropy = -(logp.exp() * logp.masked_fill(logp == -torch.inf, 0.0)).sum(-1)
    return tuple(values.where(targets != ignore, 0.0) for values in (chosen, entropy, logits.logsumexp(-1)))


def rise(values: Tensor) -> Tensor:
    return torch.linspace(-1, 2, values.numel(), dtype=values.dtype, device=values.device).view(values.shape)


def gradients(outputs, leaves) -> tuple[Tensor, ...]:
    return torch.autograd.grad(sum((values * rise(values) * (i + 1)).sum() for i, values in enumerate(outputs)), leaves)


HEADS = {"plain": (False, None), "bias": (True, None), "softcap": (False, 3.0), "both": (True, 3.0)}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("truncation", [None, Truncation(top_k=7), Truncation(top_p=0.7), Truncation(9, 0.8)])
@pytest.mark.parametrize("pieces", [False, True])
def test_every_head_in_float64(kind, truncation, pieces, cut):
    """Values, and gradients of all outputs and leaves, under every mask; whole and in pieces."""
    if pieces:
        cut(workspace=1, least_rows=4, least_columns=16)
    hidden, weight, bias, targets = sample()
    with_bias, softcap = HEADS[kind]
    head = Head(weight, bias if with_bias else None, softcap)
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    temperature = torch.linspace(0.5, 2, BATCH * LENGTH, dtype=torch.float64).view(BATCH, LENGTH)
    found = linear_logprob_entropy(
        hidden, head, targets, temperature=temperature, truncation=truncation, return_lse=True
    )
    logits = whole_logits(hidden, head) / temperature[..., None]
    if truncation is not None:
        logits = logits.masked_fill(~kept_by_sorting(logits.detach(), truncation, targets), -torch.inf)
    wanted = expected(logits, targets)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == targets.shape
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(gradients(found, leaves), gradients(wanted, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


def kept_by_sorting(logits: Tensor, truncation: Truncation, targets: Tensor) -> Tensor:
    """The mask of vLLM's sampler: over sorted logits, top-k, then top-p of what is left; and the targets."""
    ordered, place = logits.sort(-1)
    if truncation.top_k is not None:
        least = ordered[..., [-min(truncation.top_k, logits.shape[-1])]]
        ordered = ordered.masked_fill(ordered < least, -torch.inf)
    if truncation.top_p is not None:
        left_out = ordered.softmax(-1).cumsum(-1) <= 1 - truncation.top_p
        left_out[..., -1] = False
        ordered = ordered.masked_fill(left_out, -torch.inf)
    kept = torch.empty_like(logits).scatter_(-1, place, ordered) > -torch.inf
    return kept.scatter(-1, targets[..., None], True)


@given(
    seed=st.integers(0, 10_000),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.none() | st.floats(0.01, 1.0),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
)
def test_any_truncation_is_the_samplers(seed, top_k, top_p, spread):
    """The entries that are kept are those with a probability, in any dtype."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(50, 4, generator=generator, dtype=torch.float64) * spread
    hidden = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(50, (3,), generator=generator)
    truncation = Truncation(top_k, top_p)
    logprobs, _, lse = linear_logprob_entropy(hidden, weight, targets, truncation=truncation, return_lse=True)
    logits = hidden @ weight.t()
    kept = kept_by_sorting(logits, truncation, targets)
    torch.testing.assert_close(lse, logits.masked_fill(~kept, -torch.inf).logsumexp(-1))
    torch.testing.assert_close(logprobs, logits.gather(1, targets[:, None])[:, 0] - lse)


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": torch.nan}])
def test_a_truncation_outside_its_range_is_named(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        Truncation(**options)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("truncation", [None, Truncation(9, 0.8)], ids=["whole", "truncated"])
def test_the_loss_in_one_pass_is_that_of_the_log_probs(kernels, kind, truncation, cut):
    cut(workspace=1, least_rows=4, row_multiple=1, together=2)
    hidden, weight, bias, targets = sample(kernels, torch.float32)
    with_bias, softcap = HEADS[kind]
    head = Head(weight, bias if with_bias else None, softcap)
    leaves = (hidden, weight, bias) if with_bias else (hidden, weight)
    targets[1, 2] = IGNORE_INDEX
    options = {"temperature": 0.7, "truncation": truncation}
    old = rise(targets.float()) - 3
    inputs = TokenInputs(rise(targets.float()), torch.full_like(old, 0.1), old_logprobs=old)
    result = linear_policy_loss(hidden, head, targets, inputs, SETTINGS, **options)
    logprobs, entropy = linear_logprob_entropy(hidden, head, targets, **options)
    torch.testing.assert_close(result.logprobs, logprobs)
    assert result.metrics["ratio"].shape == targets.shape
    ratio = (logprobs - old).exp()
    clipped = torch.maximum(-ratio * inputs.advantages, -ratio.clamp(0.8, 1.28) * inputs.advantages)
    wanted = (0.1 * (clipped - 0.05 * entropy))[targets != IGNORE_INDEX].sum()
    torch.testing.assert_close(result.loss, wanted)
    for ours, theirs in zip(torch.autograd.grad(result.loss, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-5)


@pytest.mark.parametrize("outputs", [[0, 1, 2], [2], [0, 2], [1, 2]], ids=str)
def test_the_gradient_of_the_logsumexp(kernels, outputs):
    """Alone and beside the others, with a temperature for each token; and that of a z-loss."""
    hidden, weight, _bias, targets = sample(kernels, torch.float32)
    targets[2, 1] = IGNORE_INDEX
    temperature = torch.linspace(0.5, 2, BATCH * LENGTH, device=kernels).view(BATCH, LENGTH)
    found = linear_logprob_entropy(hidden, weight, targets, temperature=temperature, return_lse=True)
    wide = [leaf.detach().double().requires_grad_() for leaf in (hidden, weight)]
    wanted = expected(wide[0] @ wide[1].t() / temperature.double()[..., None], targets)
    for ours, theirs in zip(
        gradients([found[i].square() for i in outputs], (hidden, weight)),
        gradients([wanted[i].square() for i in outputs], wide),
        strict=True,
    ):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("integers", [torch.int32, torch.int64])
@pytest.mark.parametrize("ignore", [IGNORE_INDEX, -1, 3])
def test_targets_of_any_integers_and_any_ignored_index(kernels, integers, ignore):
    hidden, weight, _bias, targets = sample(kernels, torch.float32)
    targets = targets.where(targets != 3, 4).to(integers)
    targets[0, 1] = ignore
    options = {"ignore_index": ignore}
    found = linear_logprob_entropy(hidden, weight, targets, return_lse=True, **options)
    for ours, theirs in zip(found, expected(hidden @ weight.t(), targets, ignore), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        assert ours[0, 1] == 0
    for ours, theirs in zip(logprob_entropy(hidden @ weight.t(), targets, **options), found, strict=False):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    inputs = TokenInputs(*(torch.ones(BATCH, LENGTH, device=kernels) for _ in range(2)))
    result = linear_policy_loss(hidden, weight, targets, inputs, SETTINGS, **options)
    assert result.logprobs[0, 1] == 0
    assert torch.equal(result.logprobs, found[0])


def test_a_wide_head_on_narrow_hidden_states():
    """The states are widened and not the weight rounded; each gradient has the dtype of its own."""
    hidden, weight, _bias, targets = sample(dtype=torch.float32)
    narrow = hidden.detach().bfloat16().requires_grad_()
    found = linear_logprob_entropy(narrow, weight, targets)
    wanted = linear_logprob_entropy(narrow.float(), weight, targets)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))
    hidden_grad, weight_grad = gradients(found, (narrow, weight))
    assert hidden_grad.dtype == torch.bfloat16
    assert weight_grad.dtype == torch.float32
    inputs = TokenInputs(*(torch.ones(BATCH, LENGTH) for _ in range(2)))
    loss = linear_policy_loss(narrow, weight, targets, inputs, SETTINGS).loss
    assert [x.dtype for x in torch.autograd.grad(loss, (narrow, weight))] == [torch.bfloat16, torch.float32]


def test_the_mean_with_a_bias():
    hidden, weight, bias, targets = sample()
    head = Head(weight, bias)
    logprobs, _ = linear_logprob_entropy(hidden, head, targets, temperature=0.7)
    found = linear_mean_logprob(hidden, head, targets, logprobs, temperature=0.7)
    torch.testing.assert_close(found, (whole_logits(hidden, head) / 0.7).log_softmax(-1).mean(-1).detach())
    with pytest.raises(ValueError, match="softcap must be None"):
        linear_mean_logprob(hidden, Head(weight, softcap=3.0), targets, logprobs)


@pytest.mark.parametrize("count", [1, 6, VOCAB - 2])
def test_the_largest_log_probs(kernels, count, cut):
    cut(workspace=1, least_rows=4, row_multiple=1)
    hidden, weight, bias, _targets = sample(kernels, torch.float32)
    head = Head(weight, bias, 5.0)
    values, ids = linear_top_logprobs(hidden, head, count, temperature=0.7, vocab_size=VOCAB - 2)
    logp = (whole_logits(hidden, head)[..., : VOCAB - 2] / 0.7).log_softmax(-1)
    wanted = logp.topk(count)
    torch.testing.assert_close(values, wanted.values.detach(), atol=1e-5, rtol=1e-5)
    assert torch.equal(ids, wanted.indices)
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.39"):
        linear_top_logprobs(hidden, head, VOCAB, vocab_size=VOCAB - 2)


def test_shapes_that_do_not_fit_are_named():
    hidden, weight, _bias, targets = sample(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"targets must be int64 or int32 \[3, 5\]"):
        linear_logprob_entropy(hidden, weight, targets.flatten())
    with pytest.raises(ValueError, match=r"temperature must be a number or \[3, 5\], got \[15\]"):
        linear_logprob_entropy(hidden, weight, targets, temperature=torch.ones(15))
    inputs = TokenInputs(torch.ones(15), torch.ones(15))
    with pytest.raises(ValueError, match=r"inputs.advantages must be floating \[3, 5\]"):
        linear_policy_loss(hidden, weight, targets, inputs, SETTINGS)
