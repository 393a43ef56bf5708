"""Other libraries' shapes of the operators: against float64, and against their own functions where these are installed.

Each test of a library is how one takes the operators there: one assignment in place of its function.
"""

import importlib

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.kernels import providers
from fastsvs.kernels import IGNORE_INDEX, adapters

TOKENS, WIDTH, VOCAB = 17, 8, 41


def sample(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(hidden, weight, bias, targets) with an ignored target."""
    generator = torch.Generator().manual_seed(5)
    leaves = (torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in SHAPES)
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    targets[4] = IGNORE_INDEX
    return *leaves, targets


SHAPES = ((TOKENS, WIDTH), (VOCAB, WIDTH), (VOCAB,))


def imported(name: str):
    """The module of a library, where it is installed with what it needs."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # some of them raise what they like where a GPU or a package is missing
        pytest.skip(f"{name}: {error}")


def same(ours, theirs, leaves, **tolerance) -> None:
    """Values and gradients of an uneven sum are close."""
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.to(b.dtype), b, **tolerance)
    totals = (
        sum((x * torch.linspace(-1, 2, x.numel()).view(x.shape)).sum() for x in values) for values in (ours, theirs)
    )
    for a, b in zip(*(torch.autograd.grad(total, leaves) for total in totals), strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def uneven_sum(values) -> Tensor:
    return sum((x * torch.linspace(-1, 2, x.numel()).view(x.shape)).sum() for x in values)


CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("z_scale", [0.0, 1e-2])
@pytest.mark.parametrize("biased", [False, True])
def test_the_cross_entropy_is_torchs(reduction, smoothing, z_scale, biased):
    hidden, weight, bias, targets = sample(torch.float64)
    bias = bias if biased else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    found, z_loss = adapters.liger_fused_linear_cross_entropy(
        hidden, weight, targets, bias, lse_square_scale=z_scale, return_z_loss=True, **options
    )
    logits = F.linear(hidden, weight, bias)
    squares = z_scale * logits.logsumexp(-1).square().where(targets != IGNORE_INDEX, 0.0)
    reduced = {"none": squares, "sum": squares.sum(), "mean": squares.sum() / (TOKENS - 1)}[reduction]
    leaves = (hidden, weight, bias) if biased else (hidden, weight)
    same((found,), (F.cross_entropy(logits, targets, **options) + reduced,), leaves)
    torch.testing.assert_close(z_loss, reduced)


def test_what_an_adapter_does_not_compute_is_named():
    hidden, weight, _, targets = sample()
    liger = adapters.liger_fused_linear_cross_entropy
    with pytest.raises(ValueError, match="use_token_scaling: not computed"):
        liger(hidden, weight, targets, use_token_scaling=True)
    with pytest.raises(ValueError, match="no label_smoothing with softcap"):
        liger(hidden, weight, targets, label_smoothing=0.1, softcap=3.0)
    with pytest.raises(ValueError, match="reduction must be one of none, sum, mean, got 'median'"):
        adapters.verl_linear_cross_entropy(hidden, weight, targets, 1.0, "median")
    with pytest.raises(ValueError, match="entropy alone, got mean_logit"):
        adapters.trl_chunked_logprob(hidden, weight, None, targets, 1.0, 16, outputs=("mean_logit",))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_verls_shape(reduction):
    hidden, weight, _, targets = sample()
    targets[4] = 0
    batch = hidden.view(1, TOKENS, WIDTH), weight, targets.view(1, TOKENS)
    logprobs, entropy = adapters.verl_linear_cross_entropy(*batch, 0.7, reduction, None)
    logp = (hidden @ weight.t() / 0.7).log_softmax(-1)
    chosen = logp.gather(1, targets[:, None])[:, 0]
    reduced = {"none": chosen, "mean": chosen.mean(), "sum": chosen.sum()}[reduction]
    same((logprobs, entropy), (reduced, -(logp.exp() * logp).sum(-1)), (hidden, weight), **CLOSE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="verl's kernel needs a GPU")
def test_in_place_of_verls(monkeypatch):
    verl = imported("verl.utils.kernel.linear_cross_entropy")
    hidden, weight = (torch.randn(n, 256, device="cuda", dtype=torch.bfloat16, requires_grad=True) for n in (64, 4096))
    targets = torch.randint(4096, (64,), device="cuda")
    theirs = verl.linear_cross_entropy(hidden, weight, targets, 0.7, "none", None)
    monkeypatch.setattr(verl, "linear_cross_entropy", adapters.verl_linear_cross_entropy)
    same(verl.linear_cross_entropy(hidden, weight, targets, 0.7, "none", None), theirs, (), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("selected", [None, [3, 0, 3]])
def test_in_place_of_ligers_scaled_cross_entropy(monkeypatch, selected):
    liger = imported("liger_kernel.ops.fused_linear_scaled_cross_entropy")
    hidden, weight, _, targets = sample()
    ids = None if selected is None else torch.tensor(selected)
    arguments = hidden, weight, targets, 0.7, IGNORE_INDEX, 1, True, ids
    theirs = liger.LigerFusedLinearScaledCrossEntropyFunction.apply(*arguments)
    monkeypatch.setattr(liger.LigerFusedLinearScaledCrossEntropyFunction, "apply", adapters.liger_scaled_cross_entropy)
    ours = liger.LigerFusedLinearScaledCrossEntropyFunction.apply(*arguments)
    same(ours, theirs, (hidden, weight), **CLOSE)


@pytest.mark.parametrize(("softcap", "scale"), [(None, 1.0), (None, 0.5), (3.0, 1.0), (3.0, 0.5)])
def test_in_place_of_trls(monkeypatch, softcap, scale):
    try:  # alone, as the rest of TRL wants more than torch
        trl = providers.trl.load("chunked_logprob")
    except providers.AbsentError as error:
        pytest.skip(str(error))
    hidden, weight, bias, targets = sample()
    targets[4] = 0
    arguments = hidden, weight, bias, targets, 0.7, 16, softcap, scale, ("entropy",)
    theirs = trl.ChunkedLogProbFunction.apply(*arguments)
    monkeypatch.setattr(trl.ChunkedLogProbFunction, "apply", adapters.trl_chunked_logprob)
    ours = trl.ChunkedLogProbFunction.apply(*arguments)
    assert ours[2:] == theirs[2:] == (None, None, None)
    same(ours[:2], theirs[:2], (hidden, weight, bias), **CLOSE)


def test_in_place_of_prime_rls(monkeypatch):
    """prime-rl's has no gradient of the entropy."""
    prime = imported("prime_rl.trainer.models.layers.lm_head")
    hidden, weight, _, targets = sample()
    targets[4] = 0
    arguments = hidden, weight, targets, torch.linspace(0.5, 2, TOKENS), 16
    theirs = prime._SequenceChunkedLogProbEntropyFn.apply(*arguments)
    monkeypatch.setattr(prime._SequenceChunkedLogProbEntropyFn, "apply", adapters.prime_rl_logprob_entropy)
    ours = prime._SequenceChunkedLogProbEntropyFn.apply(*arguments)
    torch.testing.assert_close(ours[1], theirs[1], **CLOSE)
    same(ours[:1], theirs[:1], (hidden, weight), **CLOSE)


def test_prime_rls_shape():
    hidden, weight, _, targets = sample()
    targets[4] = 0
    inverse = torch.linspace(0.5, 2, TOKENS)
    found = adapters.prime_rl_logprob_entropy(hidden, weight, targets, inverse, 16)
    logp = (hidden @ weight.t() * inverse[:, None]).log_softmax(-1)
    wanted = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    same(found, wanted, (hidden, weight), **CLOSE)
