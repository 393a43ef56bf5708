"""`linear_logprob_entropy` with logits that forward keeps for backward: what it costs, and when it is done."""

from types import SimpleNamespace

import exact
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastsvs.kernels import IGNORE_INDEX, Head, Truncation, dispatch, linear_logprob_entropy, pieces
from fastsvs.kernels.kept_logits import KEPT_DTYPE, can_keep, packed
from fastsvs.kernels.rows_torch import logits_gradient, merge_statistics, row_statistics

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
ROOMY = {"workspace_bytes": 1 << 30}


@given(
    spread=st.floats(1e-4, 3e5),
    offset=st.floats(-1e4, 1e4),
    temperature=st.floats(0.05, 50),
    h=st.sampled_from([0.0, 1.0, -3.0]),
    seed=st.integers(0, 1 << 20),
)
@settings(max_examples=60, deadline=None)
def test_each_entry_of_the_gradient_is_as_near_as_is_stated(spread, offset, temperature, h, seed):
    """Rows from ties to tails beyond fp16 have p off by a factor of e^(2^-11 |d|) at most."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 200, generator=generator) * spread + offset
    targets, inverse = torch.randint(200, (4,), generator=generator), torch.full((4,), 1 / temperature)
    g, slope = torch.tensor([1.0, -2.0, 0.5, 0.0]), torch.full((4,), h)
    statistics, _, _ = merge_statistics(row_statistics(logits, targets, 0, inverse), targets)
    kept, found = torch.empty(4, 200, dtype=KEPT_DTYPE), torch.empty(4, 200)
    dispatch.keep(logits, inverse, statistics[0], kept)
    shifted = torch.stack([torch.zeros(4), *statistics[1:3], statistics[3] - statistics[0]])
    logits_gradient(kept, shifted, targets, 0, None, g * inverse, slope * inverse, None, found)

    wide = logits.double() * inverse.double()[:, None]
    true = exact.logits_gradient(wide, targets, g * inverse, slope * inverse)
    logp = wide.log_softmax(1)
    distance = wide.amax(1, keepdim=True) - wide
    entropy = -(logp.exp() * logp).sum(1, keepdim=True)
    factor = g.abs()[:, None] + abs(h) * (1 + (logp + entropy).abs())
    fp32 = 4e-7 * (4 + wide.abs().amax(1, keepdim=True))  # of scaled logits, and of the exact formula from there
    rounding = 2.0**-11 * distance + 2.0**-25 + fp32
    bound = factor * ((logp + rounding).exp() - logp.exp()) + fp32 * (g.abs()[:, None] + abs(h))
    assert ((found.double() - true).abs() <= bound * inverse[:, None]).all()


def sample(tokens: int = 48, vocab: int = 1500, device: torch.device | None = None, seed: int = 0):
    """bf16 states and weight, whose rows are partly peaked, and targets as such rows would give them."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(vocab, 32, generator=generator) / 32**0.5
    likely = torch.randint(vocab, (tokens,), generator=generator)
    height = torch.linspace(0, 14, tokens)[:, None]
    hidden = torch.randn(tokens, 32, generator=generator) + height * weight[likely]
    leaves = (x.to(device, torch.bfloat16).requires_grad_() for x in (hidden, weight))
    targets = torch.where(torch.arange(tokens) % 3 > 0, likely, likely.flip(0))
    return *leaves, targets.to(device)


def slopes(tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rise = torch.linspace(-1, 2, tokens, device=device)
    return rise, 0.2 * rise.flip(0)


def run(hidden: Tensor, weight: Tensor | Head, targets: Tensor, **options) -> list[Tensor]:
    """Results, and the gradients of an uneven sum of them."""
    head = weight if isinstance(weight, Head) else Head(weight)
    outputs = linear_logprob_entropy(hidden, head, targets, **options)
    leaves = [leaf for leaf in (hidden, head.weight, head.bias) if leaf is not None]
    gradients = torch.autograd.grad(outputs, leaves, slopes(len(hidden), hidden.device))
    return [x.detach() for x in (*outputs, *gradients)]


def error(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).norm() / true.norm())


def errors(found: list[Tensor], hidden: Tensor, weight: Tensor, targets: Tensor) -> list[float]:
    """Errors of dX and dW, to float64."""
    x, w = (leaf.detach().double() for leaf in (hidden, weight))
    g = exact.logits_gradient(x @ w.t(), targets, *slopes(len(x), x.device))
    return [error(ours, true) for ours, true in zip(found[2:], (g @ w, g.t() @ x), strict=True)]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("rows", ["all", "some"])
def test_it_is_as_exact_as_logits_made_again(device, rows):
    hidden, weight, targets = sample(device=device)
    if rows == "some":
        targets[5::7] = IGNORE_INDEX
    found = run(hidden, weight, targets, **ROOMY)
    again = run(hidden, weight, targets, keep_logits=False, **ROOMY)
    assert all(torch.equal(a, b) for a, b in zip(found[:2], again[:2], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(found[2:], again[2:], strict=True))  # it took the other way
    for ours, exactly in zip(
        errors(found, hidden, weight, targets), errors(again, hidden, weight, targets), strict=True
    ):
        assert ours <= 1.1 * exactly


@pytest.mark.usefixtures("narrow")
def test_it_costs_less_than_bf16_logits():
    """The comparison that decides whether it is on by default. Without the interpreter, which rounds bf16 down."""
    hidden, weight, targets = sample(tokens=192, vocab=3000)
    found, again = (run(hidden, weight, targets, keep_logits=keep, **ROOMY) for keep in (True, False))
    logp = (hidden @ weight.t()).float().log_softmax(-1)
    outputs = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    theirs = [*outputs, *torch.autograd.grad(outputs, (hidden, weight), slopes(192, hidden.device))]
    for ours, exactly, bf16 in zip(*(errors(x, hidden, weight, targets) for x in (found, again, theirs)), strict=True):
        assert ours <= 1.02 * exactly
        assert ours <= 0.75 * bf16


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": "per token"},
        {"vocab_size": 1401},
        {"truncation": Truncation(50, 0.9)},
        {"validate": False},
        {"bias": True},
    ],
    ids=str,
)
def test_every_option_gives_the_gradients_of_the_other_way(options, device):
    hidden, weight, targets = sample(device=device)
    targets.clamp_(max=1400)[::5] = IGNORE_INDEX
    head = Head(weight)
    if options.get("bias"):
        head, options = Head(weight, torch.linspace(-2, 2, 1500, device=device).bfloat16().requires_grad_()), {}
    if options.get("temperature") == "per token":
        options = {"temperature": torch.linspace(0.5, 2, 48, device=device)}
    found = run(hidden, head, targets, **options, **ROOMY)
    again = run(hidden, head, targets, keep_logits=False, **options, **ROOMY)
    for ours, exactly in zip(found, again, strict=True):
        assert ours.dtype == exactly.dtype
        assert error(ours, exactly.double()) <= 3e-3
    assert found[2][::5].abs().max() == 0


@pytest.mark.usefixtures("narrow")
def test_rows_without_a_gradient_leave_their_places_to_others(device):
    hidden, weight, targets = sample(device=device)
    targets[::5] = IGNORE_INDEX
    silent = torch.arange(48, device=device) % 4 == 1
    given = [torch.where(silent, 0.0, slope) for slope in slopes(48, device)]
    found, again = (
        torch.autograd.grad(
            linear_logprob_entropy(hidden, weight, targets, keep_logits=keep, **ROOMY), (hidden, weight), given
        )
        for keep in (True, False)
    )
    assert found[0][silent].abs().max() == 0
    for ours, exactly in zip(found, again, strict=True):
        assert error(ours, exactly.double()) <= 3e-3
    nothing = linear_logprob_entropy(hidden, weight, targets, **ROOMY)
    zeros = torch.autograd.grad(nothing, (hidden, weight), [torch.zeros(48, device=device)] * 2)
    assert all(x.abs().max() == 0 for x in zeros)


@pytest.mark.usefixtures("narrow")
def test_a_second_backward_makes_logits_again(device):
    hidden, weight, targets = sample(device=device)
    outputs = linear_logprob_entropy(hidden, weight, targets, **ROOMY)
    first, second = (
        torch.autograd.grad(outputs, (hidden, weight), slopes(48, device), retain_graph=True) for _ in range(2)
    )
    again = run(hidden, weight, targets, keep_logits=False, **ROOMY)[2:]
    assert all(torch.equal(a, b) for a, b in zip(second, again, strict=True))
    assert not torch.equal(first[0], second[0])


@pytest.mark.usefixtures("narrow")
def test_what_is_no_number_stays_none_and_the_same_bits_come_twice(device):
    hidden, weight, targets = sample(device=device)
    first, second = (run(hidden, weight, targets, **ROOMY) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with torch.no_grad():
        hidden[2] = torch.nan
    hidden_grad, weight_grad = run(hidden, weight, targets, **ROOMY)[2:]
    assert hidden_grad[2].isnan().all()
    assert weight_grad.isnan().any()


@pytest.mark.usefixtures("narrow")
def test_it_is_done_where_it_fits_and_nothing_else_of_the_logits_is_needed():
    hidden, weight, _ = sample()
    taken = 48 * 1500 * (2 + 4)
    assert can_keep(hidden, Head(weight), taken)
    assert not can_keep(hidden, Head(weight), taken - 1)
    assert not can_keep(hidden, Head(weight, softcap=30.0), taken)
    assert not can_keep(hidden.float(), Head(weight.float()), 4 * taken)
    assert not can_keep(hidden.detach(), Head(weight.detach()), taken)
    assert can_keep(hidden.detach(), Head(weight), taken)
    with torch.no_grad():
        assert not can_keep(hidden, Head(weight), taken)


@given(rows=st.integers(1, 60_000), columns=st.integers(1, 300_000), workspace=st.integers(1, 1 << 33))
def test_what_is_kept_fits_the_workspace(rows, columns, workspace):
    like = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16)
    spans = pieces.row_pieces(rows, columns, like, workspace)
    taken = columns * (2 * rows + 4 * max(span.stop - span.start for span in spans))
    if pieces.holds_all(rows, columns, like, workspace):
        assert taken <= workspace
    elif max(span.stop - span.start for span in spans) > pieces.CUDA.least_rows:  # cut to fit
        assert len(pieces.row_groups(rows, columns, like, workspace)) > 1 or taken > workspace * 0.7


def test_8192_tokens_of_a_32b_model_fit_the_default_workspace():
    like = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16)
    assert pieces.holds_all(8192, 152_064, like, None)
    assert not pieces.holds_all(16_384, 152_064, like, None)


@given(live=st.lists(st.booleans(), max_size=400), width=st.integers(1, 3))
@settings(deadline=None)
def test_live_rows_move_to_the_front_each_once(live, width):
    mask, before = torch.tensor(live, dtype=torch.bool), torch.randn(len(live) + 2, width)
    tile = before.clone()
    places = packed(tile, mask)
    if places is None:
        assert all(live)
        places = torch.arange(len(live))
    assert sorted(places.tolist()) == mask.nonzero().flatten().tolist()
    assert torch.equal(tile[: len(places)], before[places])
    stayed = [row for row in range(len(places)) if live[row]]
    assert torch.equal(places[stayed], torch.tensor(stayed, dtype=torch.int64))


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("columns", [1, 1000, 2048, 5001])
def test_the_triton_kernel_keeps_what_torch_does(columns, split, device, split_rows):
    from fastsvs.kernels import keep_triton

    if split:
        split_rows(2)
    logits = torch.randn(3, columns, device=device) * 40
    logits[0, 0], logits[1, columns // 2] = -torch.inf, -1e6
    inverse = torch.tensor([1.0, 0.5, 2.0], device=device)
    for scale in (None, inverse):
        tops = (logits if scale is None else logits * scale[:, None]).amax(1)
        tops = tops.masked_fill(tops.isneginf(), 0.0)
        found, expected = (torch.empty(3, columns, dtype=KEPT_DTYPE, device=device) for _ in range(2))
        keep_triton.keep(logits, scale, tops, found)
        expected.copy_((logits if scale is None else logits * scale[:, None]) - tops[:, None])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=2**-10)
        assert found.max() <= 0
