"""`linear_logprob_entropy` through the Triton kernels, in pieces and at once, against float64."""

import exact
import pytest
import torch
from torch import Tensor

from fastsvs.kernels import IGNORE_INDEX, linear_logprob, linear_logprob_entropy

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=["one_piece", "pieces", "pieces_split_rows"])
def pieces(request, device, cut, split_rows) -> None:
    if request.param != "one_piece":
        cut(workspace=8 * 5 * 700, least_rows=5, least_columns=600)
    if request.param == "pieces_split_rows":
        split_rows(2)


def sample(tokens: int, vocab: int, dtype: torch.dtype, device: torch.device, width: int = 32):
    generator = torch.Generator().manual_seed(tokens + vocab)
    hidden = torch.randn(tokens, width, generator=generator)
    weight = torch.randn(vocab, width, generator=generator) * 3 / width**0.5
    targets = torch.randint(vocab, (tokens,), generator=generator)
    return *(x.to(device, dtype).requires_grad_() for x in (hidden, weight)), targets.to(device)


def slopes(tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rise = torch.linspace(-1, 2, tokens, device=device)
    return rise, rise.flip(0) - 0.25


def run(hidden: Tensor, weight: Tensor, targets: Tensor, **options) -> list[Tensor]:
    """[log-probs, entropy, dX, dW] of an uneven sum of the outputs."""
    outputs = linear_logprob_entropy(hidden, weight, targets, **options)
    gradients = torch.autograd.grad(outputs, (hidden, weight), slopes(len(hidden), hidden.device))
    return [x.detach() for x in (*outputs, *gradients)]


def truth(hidden: Tensor, weight: Tensor, targets: Tensor, **options) -> list[Tensor]:
    x, w = hidden.detach().double(), weight.detach().double()
    slope = exact.logits_gradient(x @ w.t(), targets, *slopes(len(x), x.device), **options)
    return [*exact.values(x @ w.t(), targets, **options), slope @ w, slope.t() @ x]


def check(hidden: Tensor, weight: Tensor, targets: Tensor, **options) -> None:
    found, wanted = run(hidden, weight, targets, **options), truth(hidden, weight, targets, **options)
    for ours, expected in zip(found[:2], wanted[:2], strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-6)
    share = 3e-6 if hidden.dtype == torch.float32 else 4e-3  # of bf16: its rounding of operands and results
    for ours, expected in zip(found[2:], wanted[2:], strict=True):
        assert ours.dtype == hidden.dtype
        assert (ours.double() - expected).norm() <= share * expected.norm()


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize(("tokens", "vocab"), [(1, 1), (3, 17), (12, 1000), (12, 2777)])
def test_any_shape(tokens, vocab, dtype, device):
    check(*sample(tokens, vocab, dtype, device))


@pytest.mark.usefixtures("pieces")
def test_padding_ignored_rows_and_a_temperature_per_token(dtype, device):
    hidden, weight, targets = sample(12, 1500, dtype, device)
    targets.clamp_(max=1400)[::3] = IGNORE_INDEX
    check(hidden, weight, targets, vocab_size=1401, temperature=torch.linspace(0.5, 2, 12, device=device))


@pytest.mark.usefixtures("pieces")
def test_targets_on_the_borders_of_pieces(dtype, device):
    hidden, weight, _ = sample(8, 2100, dtype, device)
    check(hidden, weight, torch.tensor([0, 599, 600, 699, 700, 701, 1400, 2099], device=device))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("tokens", [0, 3])
def test_nothing_but_ignored_rows(tokens, dtype, device):
    hidden, weight, targets = sample(tokens, 100, dtype, device)
    for output in run(hidden, weight, targets.fill_(IGNORE_INDEX)):
        assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_all_logits_far_from_0(offset, device):
    hidden, weight, targets = sample(8, 1500, torch.float32, device)
    hidden, weight = (x.detach().mul(64).round() / 64 for x in (hidden, weight))  # so that products are exact
    hidden = torch.cat([hidden, torch.ones(8, 1, device=device)], 1).requires_grad_()
    weight = torch.cat([weight, torch.full((1500, 1), offset, device=device)], 1).requires_grad_()
    found, wanted = run(hidden, weight, targets), truth(hidden, weight, targets)
    rounding = abs(offset) * 2**-23  # of the logits
    for ours, expected in zip(found[:2], wanted[:2], strict=True):
        torch.testing.assert_close(ours.double(), expected, atol=2 * rounding, rtol=0)
    assert all(x.isfinite().all() for x in found)


@pytest.mark.usefixtures("pieces")
def test_what_is_no_number_stays_none(dtype, device):
    hidden, weight, targets = sample(6, 1500, dtype, device)
    with torch.no_grad():
        hidden[2] = torch.nan
    logprobs, entropy, hidden_grad, weight_grad = run(hidden, weight, targets)
    assert logprobs.isnan().tolist() == entropy.isnan().tolist() == [i == 2 for i in range(6)]
    assert hidden_grad[2].isnan().all()
    assert weight_grad.isnan().any()


@pytest.mark.usefixtures("pieces")
def test_twice_the_same_bits_and_a_first_ratio_of_1(dtype, device):
    hidden, weight, targets = sample(12, 1500, dtype, device)
    with torch.no_grad():
        old, _ = linear_logprob_entropy(hidden, weight, targets, temperature=0.9)
    first, second = (run(hidden, weight, targets, temperature=0.9) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert ((first[0] - old).exp() == 1).all()


@pytest.mark.usefixtures("pieces")
def test_bf16_gradients_of_fp32_logits(device, monkeypatch):
    """As a GPU does it: the gradient enters the products in bf16."""
    monkeypatch.setattr(linear_logprob, "operand_dtype", lambda like: torch.bfloat16)
    hidden, weight, targets = sample(12, 1501, torch.bfloat16, device)
    check(hidden, weight, targets)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_no_less_exact_than_plain_torch(temperature, dtype, device):
    """On the whole, over tokens enough that it is no matter of luck; the largest error is one in fp32."""
    tokens = 256 if dtype == torch.float32 else 32
    hidden, weight, targets = sample(tokens, 2000, dtype, device)
    found, wanted = (
        run(hidden, weight, targets, temperature=temperature),
        truth(hidden, weight, targets, temperature=temperature),
    )
    logp = (hidden @ weight.t() / temperature).log_softmax(-1)
    outputs = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    gradients = torch.autograd.grad(outputs, (hidden, weight), [x.to(dtype) for x in slopes(tokens, device)])
    for ours, theirs, true in zip(found, (*outputs, *gradients), wanted, strict=True):
        ours, theirs = ours.double() - true, theirs.detach().double() - true
        assert ours.norm() <= theirs.norm()
        assert ours.abs().max() <= (2 if dtype == torch.float32 else 1) * theirs.abs().max()
