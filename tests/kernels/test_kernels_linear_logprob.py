"""`linear_logprob_entropy` against torch's log_softmax in float64, on one process."""

import pytest
import torch
from torch import Tensor

from fastsvs.kernels import IGNORE_INDEX, Head, linear_logprob_entropy


def reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """By way of whole logits; ignored rows are 0."""
    scale = torch.as_tensor(temperature).reshape(-1, 1)
    logp = torch.log_softmax(hidden @ weight.t() / scale, dim=-1)
    kept = targets != IGNORE_INDEX
    chosen = logp.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(kept, chosen, 0.0), torch.where(kept, -(logp.exp() * logp).sum(-1), 0.0)


def sample(tokens: int, width: int, vocab: int, dtype: torch.dtype = torch.float32, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=generator).to(dtype).requires_grad_()
    weight = (torch.randn(vocab, width, generator=generator) * 2 / width**0.5).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(vocab, (tokens,), generator=generator)


def gradients(
    outputs: tuple[Tensor, Tensor], inputs: tuple[Tensor, Tensor], entropy: bool = True
) -> tuple[Tensor, ...]:
    """Of an uneven sum over the tokens of both outputs."""
    rise = torch.linspace(-1, 2, len(outputs[0]), dtype=outputs[0].dtype)
    total = (outputs[0] * rise).sum() + ((outputs[1] * rise.flip(0)).sum() if entropy else 0.0)
    return torch.autograd.grad(total, inputs)


def compare(tokens: int, width: int, vocab: int, temperature: float | Tensor = 1.0, **kwargs) -> None:
    """Values and gradients within a few fp32 rounding errors of float64."""
    hidden, weight, targets = sample(tokens, width, vocab, **kwargs)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = reference(*exact, targets, temperature)
    found = linear_logprob_entropy(hidden, weight, targets, temperature=temperature)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-5)
    for a, b in zip(gradients(found, (hidden, weight)), gradients(expected, tuple(exact)), strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-5, rtol=1e-4)


@pytest.fixture(params=[False, True], ids=["one_tile", "many_tiles"])
def tiles(request, cut):
    if request.param:
        cut(workspace=8 * 5 * 16, least_rows=5, least_columns=16)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("temperature", [1.0, 0.7, "per token"])
def test_gradcheck_in_float64(temperature):
    hidden, weight, targets = sample(6, 4, 35, torch.float64)
    targets[2] = IGNORE_INDEX
    scale = torch.linspace(0.5, 2, 6) if temperature == "per token" else temperature
    assert (targets < 33).all()
    assert torch.autograd.gradcheck(
        lambda x, w: linear_logprob_entropy(x, w, targets, temperature=scale, vocab_size=33),
        (hidden, weight),
        eps=1e-6,
        atol=1e-7,
    )


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize(("tokens", "vocab"), [(1, 1), (1, 97), (23, 2), (23, 97), (64, 1000)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_matches_log_softmax(tokens, vocab, temperature):
    compare(tokens, 32, vocab, temperature)


def test_temperature_per_token():
    compare(40, 16, 123, torch.linspace(0.3, 3, 40))


def test_bf16_is_no_less_exact_than_plain_torch():
    hidden, weight, targets = sample(300, 64, 2000, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    expected = reference(*exact, targets)
    plain = reference(hidden, weight, targets)
    found = linear_logprob_entropy(hidden, weight, targets)
    assert all(x.dtype == torch.float32 for x in found)

    def worst(values):
        return [(a.double() - b).abs().max() for a, b in zip(values, expected, strict=True)]

    assert all(ours < 1e-5 < theirs for ours, theirs in zip(worst(found), worst(plain), strict=True))
    truth = gradients(expected, tuple(exact))
    ours = gradients(found, (hidden, weight))
    theirs = gradients(plain, (hidden, weight))
    for t, a, b in zip(truth, ours, theirs, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.double() - t).norm() <= (b.double() - t).norm()
        assert (a.double() - t).norm() <= 3e-3 * t.norm()


@pytest.mark.usefixtures("tiles")
def test_padding_has_no_probability_and_no_gradient():
    hidden, weight, targets = sample(20, 8, 50)
    padded = torch.cat([weight.detach(), torch.full((14, 8), 3.0)]).requires_grad_()
    alone = linear_logprob_entropy(hidden, weight, targets)
    found = linear_logprob_entropy(hidden, padded, targets, vocab_size=50)
    for a, b in zip(found, alone, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    _, weight_grad = gradients(found, (hidden, padded))
    assert weight_grad[50:].abs().max() == 0
    torch.testing.assert_close(weight_grad[:50], gradients(alone, (hidden, weight))[1])


@pytest.mark.usefixtures("tiles")
def test_ignored_rows_are_as_if_absent():
    hidden, weight, targets = sample(30, 8, 50)
    kept = torch.arange(30) % 3 == 1
    found = linear_logprob_entropy(hidden, weight, targets.where(kept, IGNORE_INDEX))
    alone = linear_logprob_entropy(hidden[kept], weight, targets[kept])
    (a, b), (c, d) = found, alone
    assert torch.equal(a[kept], c)
    assert torch.equal(b[kept], d)
    assert a[~kept].abs().max() == b[~kept].abs().max() == 0
    hidden_grad, weight_grad = torch.autograd.grad(a.sum() + b.sum(), (hidden, weight))
    assert hidden_grad[~kept].abs().max() == 0
    assert torch.equal(weight_grad, torch.autograd.grad(c.sum() + d.sum(), weight)[0])


@pytest.mark.parametrize("tokens", [0, 7])
def test_nothing_to_compute(tokens):
    hidden, weight, _ = sample(tokens, 8, 50)
    logprobs, entropy = linear_logprob_entropy(hidden, weight, torch.full((tokens,), IGNORE_INDEX))
    assert torch.equal(logprobs, torch.zeros(tokens))
    assert torch.equal(entropy, torch.zeros(tokens))
    grads = torch.autograd.grad(logprobs.sum() + entropy.sum(), (hidden, weight))
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("offset", [1e4, -1e4, 1e6])
def test_an_offset_of_all_logits_changes_nothing(offset):
    hidden, weight, targets = sample(24, 8, 60)
    bias = torch.ones(24, 1)
    # Powers of two keep the products exact, so that only the offset's own rounding of the logits is left.
    hidden, weight = (x.detach().mul(64).round() / 64 for x in (hidden, weight))
    shifted = torch.cat([weight, torch.full((60, 1), offset)], 1)
    found = linear_logprob_entropy(torch.cat([hidden, bias], 1), shifted, targets)
    expected = linear_logprob_entropy(hidden, weight, targets)
    rounding = torch.finfo(torch.float32).eps * abs(offset)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=4 * rounding, rtol=0)


@pytest.mark.usefixtures("tiles")
def test_certain_and_uniform_rows():
    weight = torch.zeros(40, 2)
    weight[7, 0] = 1.0
    hidden = torch.tensor([[1e4, 0.0], [0.0, 5.0]], requires_grad=True)
    logprobs, entropy = linear_logprob_entropy(hidden, weight, torch.tensor([7, 7]))
    log_vocab = torch.tensor(40.0).log()
    torch.testing.assert_close(logprobs, torch.stack([torch.tensor(0.0), -log_vocab]))
    torch.testing.assert_close(entropy, torch.stack([torch.tensor(0.0), log_vocab]))
    (grad,) = torch.autograd.grad(logprobs.sum() + entropy.sum(), hidden)
    assert grad.isfinite().all()
    assert grad[0].abs().max() == 0


def test_one_output_alone_gives_its_own_gradient():
    hidden, weight, targets = sample(12, 8, 30)
    logprobs, entropy = linear_logprob_entropy(hidden, weight, targets)
    expected = reference(hidden, weight, targets)
    for found, wanted in zip((logprobs, entropy), expected, strict=True):
        ours = torch.autograd.grad(found.sum(), (hidden, weight), retain_graph=True)
        theirs = torch.autograd.grad(wanted.sum(), (hidden, weight), retain_graph=True)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    silent = torch.autograd.grad(logprobs.sum() + 0 * entropy.sum(), (hidden, weight), retain_graph=True)
    alone = torch.autograd.grad(logprobs.sum(), (hidden, weight), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(silent, alone, strict=True))


def test_frozen_weight_and_frozen_hidden():
    hidden, weight, targets = sample(12, 8, 30)
    both = gradients(linear_logprob_entropy(hidden, weight, targets), (hidden, weight))
    (only_hidden,) = gradients(linear_logprob_entropy(hidden, weight.detach(), targets), (hidden,))
    (only_weight,) = gradients(linear_logprob_entropy(hidden.detach(), weight, targets), (weight,))
    assert torch.equal(only_hidden, both[0])
    assert torch.equal(only_weight, both[1])


def test_strided_inputs():
    hidden, weight, targets = sample(12, 8, 30)
    wide = torch.stack([hidden.detach(), torch.zeros(12, 8)], 2)[:, :, 0]
    tall = weight.detach().t().contiguous().t()
    assert not wide.is_contiguous()
    assert not tall.is_contiguous()
    for a, b in zip(
        linear_logprob_entropy(wide, tall, targets), linear_logprob_entropy(hidden, weight, targets), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_twice_the_same_bits():
    hidden, weight, targets = sample(2000, 16, 700)
    first, second = (gradients(linear_logprob_entropy(hidden, weight, targets), (hidden, weight)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.tensor([0, 1, 50])}, "outside the vocabulary"),
        ({"targets": torch.tensor([0, 1, -1])}, "outside the vocabulary"),
        ({"targets": torch.tensor([0, 1, 48]), "vocab_size": 48}, "outside the vocabulary"),
        ({"targets": torch.tensor([0, 1])}, "targets must be int64"),
        ({"targets": torch.tensor([0.0, 1.0, 2.0])}, "targets must be int64 or int32"),
        ({"targets": torch.zeros(3, dtype=torch.int64, device="meta")}, r"on cpu, one a row, got .* on meta"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": torch.tensor([1.0, 1.0, -1.0])}, "above 0"),
        ({"temperature": torch.ones(2)}, "temperature must be a number"),
        ({"vocab_size": 51}, "vocab_size"),
        ({"weight": torch.zeros(50, 9)}, "vocab_shard, hidden"),
        ({"weight": torch.zeros(50, 8, dtype=torch.bfloat16)}, "share a floating dtype"),
        ({"workspace_bytes": -1}, "workspace_bytes must be above 0"),
        ({"vocab_start": 3}, "vocab_start needs a vocab_size"),
        ({"weight": Head(torch.zeros(50, 8), torch.zeros(49))}, r"bias must be torch.float32 \[50\]"),
        ({"weight": Head(torch.zeros(50, 8), softcap=0.0)}, "softcap must be above 0"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"hidden": torch.zeros(3, 8), "weight": torch.zeros(50, 8), "targets": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match=message):
        linear_logprob_entropy(**(arguments | change))
