"""`logprob_entropy`, and the row kernels in Triton under it, against float64 over the edges where they may go wrong."""

import subprocess
import sys
from dataclasses import replace

import exact
import pytest
import torch
import triton_interpreter
from torch import Tensor

from fastsvs.kernels import IGNORE_INDEX, logprob_entropy

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # numpy's, for log 0 of an ignored row

HALF_ULP = {torch.float32: 2**-24, torch.bfloat16: 2**-8}
INTERPRETED = not torch.cuda.is_available()
"""Triton's interpreter truncates to bf16, where the hardware rounds to the nearest."""


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request) -> torch.dtype:
    return request.param


@pytest.fixture(params=["whole_rows", "split_rows"])
def parts(request, device, split_rows) -> None:
    """Programs that share a row: one, or up to three."""
    if request.param == "split_rows":
        split_rows(3)


def sample(rows: int, columns: int, dtype: torch.dtype, device: torch.device, spread: float = 3.0):
    generator = torch.Generator().manual_seed(rows + columns)
    logits = (torch.randn(rows, columns, generator=generator) * spread).to(device, dtype)
    return logits, torch.randint(columns, (rows,), generator=generator).to(device)


def slopes(rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Uneven gradients of both outputs."""
    rise = torch.linspace(-1, 2, rows, device=device)
    return rise, rise.flip(0) - 0.25


def run(logits: Tensor, targets: Tensor, **options) -> tuple[Tensor, Tensor, Tensor]:
    """(log-probs, entropy, gradient of an uneven sum of them)."""
    logits = logits.detach().requires_grad_()
    logprobs, entropy = logprob_entropy(logits, targets, **options)
    (gradient,) = torch.autograd.grad((logprobs, entropy), logits, slopes(len(logits), logits.device))
    return logprobs.detach(), entropy.detach(), gradient


def check(logits: Tensor, targets: Tensor, *, values: float = 2e-6, slope: float = 2e-6, **options) -> Tensor:
    """All of `run` within absolute rounding errors of `values` and `slope` of float64, and the store's own rounding."""
    before = logits.clone()
    logprobs, entropy, gradient = run(logits, targets, **options)
    assert torch.equal(logits, before) or options.get("inplace_backward")
    options.pop("inplace_backward", None)
    expected = exact.values(before, targets, **options)
    for found, wanted in zip((logprobs, entropy), expected, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), wanted, atol=values, rtol=4e-7)
    wanted = exact.logits_gradient(before, targets, *slopes(len(before), before.device), **options)
    store = HALF_ULP[logits.dtype] * (2 if INTERPRETED else 1)
    assert gradient.dtype == logits.dtype
    torch.testing.assert_close(gradient.double(), wanted, atol=slope, rtol=store + 1e-5)
    return gradient


@pytest.mark.parametrize("temperature", [1.0, 0.7, "per token"])
def test_gradcheck_in_float64(temperature):
    logits, targets = sample(5, 13, torch.float64, torch.device("cpu"))
    targets[1] = IGNORE_INDEX
    scale = torch.linspace(0.5, 2, 5) if temperature == "per token" else temperature
    assert torch.autograd.gradcheck(
        lambda z: logprob_entropy(z, targets, temperature=scale, vocab_size=12),
        logits.requires_grad_(),
        eps=1e-6,
        atol=1e-7,
    )


def test_the_reference_is_what_autograd_says():
    logits, targets = sample(6, 40, torch.float64, torch.device("cpu"))
    targets[2] = IGNORE_INDEX
    scale = torch.linspace(0.5, 2, 6)
    logits.requires_grad_()
    logp = (logits[:, :37] / scale.double()[:, None]).log_softmax(-1)
    chosen = logp.gather(1, targets.clamp(0, 36)[:, None])[:, 0]
    kept = (targets != IGNORE_INDEX).double()
    g, h = (kept * slope for slope in slopes(6, logits.device))
    (wanted,) = torch.autograd.grad((g * chosen - h * (logp.exp() * logp).sum(-1)).sum(), logits)
    found = exact.logits_gradient(logits, targets.clamp(max=36), *slopes(6, logits.device), scale, 37)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-10)


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("columns", [1, 7, 16, 1000, 1024, 1037, 4096, 4097, 9000])
def test_any_number_of_columns(columns, dtype, device):
    check(*sample(4, columns, dtype, device))


def test_the_longest_configuration(dtype, device):
    check(*sample(2, 33_000, dtype, device))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_huge_and_very_negative_logits(offset, dtype, device):
    logits, targets = sample(5, 5000, dtype, device)
    check((logits.float() + offset).to(dtype), targets)


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_an_offset_under_a_temperature(offset, dtype, device):
    """A log-prob then has the rounding of logit / temperature, as in plain torch; entropy and gradient stay exact."""
    logits, targets = sample(5, 5000, dtype, device)
    logits = (logits.float() + offset).to(dtype)
    logprobs, entropy, gradient = run(logits, targets, temperature=0.7)
    wanted = exact.values(logits, targets, 0.7)
    torch.testing.assert_close(logprobs.double(), wanted[0], atol=abs(offset) / 0.7 * 2**-24 + 2e-6, rtol=0)
    torch.testing.assert_close(entropy.double(), wanted[1], atol=2e-6, rtol=4e-7)
    slope = exact.logits_gradient(logits, targets, *slopes(5, device), 0.7)
    torch.testing.assert_close(gradient.double(), slope, atol=2e-6, rtol=2 * HALF_ULP[dtype] + 1e-5)


@pytest.mark.usefixtures("parts")
def test_columns_of_minus_infinity(dtype, device):
    logits, targets = sample(6, 3000, dtype, device)
    targets.clamp_(min=1500)
    logits[:, :1500] = -torch.inf  # a whole block of a thread, and the first ones
    logits[1, 1500:2999] = -torch.inf
    targets[1] = 2999
    logits[2, 100::2] = -torch.inf
    targets[2] = 1501 if logits[2, 1501] > -torch.inf else 1502
    logits[3, targets[3]] = torch.finfo(dtype).min  # the usual mask of attention
    logprobs, _, gradient = run(logits, targets)
    assert gradient.isfinite().all()
    assert logprobs[1] == 0
    keep = [0, 1, 2, 4, 5]
    check(logits[keep], targets[keep])


@pytest.mark.usefixtures("parts")
def test_a_target_of_minus_infinity(dtype, device):
    """Impossible, and said so; its gradient is still a number."""
    logits, targets = sample(2, 500, dtype, device)
    logits[0, targets[0]] = -torch.inf
    logits = logits.requires_grad_()
    logprobs, entropy = logprob_entropy(logits, targets)
    assert logprobs[0] == -torch.inf
    assert entropy.isfinite().all()
    for output in (logprobs, entropy):
        (gradient,) = torch.autograd.grad(output.sum(), logits, retain_graph=True)
        assert gradient.isfinite().all()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 2998])
def test_what_is_no_number_stays_none(poison, place, dtype, device):
    logits, targets = sample(3, 2999, dtype, device)
    logits[1, place] = poison
    logprobs, entropy, gradient = run(logits, targets)
    for output in (logprobs, entropy, gradient[:, 5]):
        assert output.isnan().tolist() == [False, True, False]
    logprobs, entropy, _ = run(torch.full_like(logits, -torch.inf), targets)
    assert logprobs.isnan().all()
    assert entropy.isnan().all()


@pytest.mark.usefixtures("parts")
def test_uniform_rows(dtype, device):
    columns = 4500
    logits = torch.tensor([0.0, -40.0, 25.0], device=device, dtype=dtype)[:, None].expand(3, columns).contiguous()
    logprobs, entropy, _ = run(logits, torch.tensor([0, 17, columns - 1], device=device))
    log_columns = torch.full_like(entropy, columns).log()
    torch.testing.assert_close(entropy, log_columns, atol=2e-6, rtol=0)
    torch.testing.assert_close(logprobs, -log_columns, atol=2e-6, rtol=0)
    check(logits, torch.tensor([0, 17, columns - 1], device=device))


@pytest.mark.usefixtures("parts")
def test_certain_rows(dtype, device):
    logits = torch.zeros(3, 4500, device=device, dtype=dtype)
    targets = torch.tensor([0, 2222, 4499], device=device)
    logits[torch.arange(3), targets] = 1e4
    logprobs, entropy, gradient = run(logits, targets)
    assert logprobs.abs().max() == entropy.abs().max() == gradient.abs().max() == 0


@pytest.mark.usefixtures("parts")
def test_padding_has_no_probability_and_gradient_0(dtype, device):
    logits, targets = sample(4, 3000, dtype, device)
    targets.clamp_(max=2985)
    logits[:, 2986:] = 50.0
    gradient = check(logits, targets, vocab_size=2986)
    assert gradient[:, 2986:].abs().max() == 0


@pytest.mark.usefixtures("parts")
def test_targets_on_the_borders(dtype, device):
    columns = 9000
    edges = [0, 1, 2999, 3000, 3001, 4095, 4096, 4097, 8191, 8192, columns - 1]
    logits, _ = sample(len(edges), columns, dtype, device)
    check(logits, torch.tensor(edges, device=device))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_but_ignored_rows(rows, dtype, device):
    logits, targets = sample(rows, 2000, dtype, device)
    targets.fill_(IGNORE_INDEX)
    for output in run(logits.fill_(torch.nan), targets):
        assert torch.equal(output, torch.zeros_like(output))


@pytest.mark.usefixtures("parts")
def test_ignored_rows_among_others(dtype, device):
    logits, targets = sample(6, 2000, dtype, device)
    targets[1::2] = IGNORE_INDEX
    whole = run(logits, targets)
    check(logits, targets)
    for output in whole:
        assert output[1::2].abs().max() == 0


@pytest.mark.usefixtures("parts")
def test_temperature_per_token(dtype, device):
    logits, targets = sample(6, 3000, dtype, device)
    check(logits, targets, values=4e-6, temperature=torch.linspace(0.4, 3, 6, device=device))


@pytest.mark.usefixtures("parts")
def test_rows_at_any_stride(dtype, device):
    wide, targets = sample(8, 3100, dtype, device)
    targets.clamp_(max=2999)
    assert not targets[::2].is_contiguous()
    check(wide[::2, 3:3003], targets[::2])


def test_rows_beyond_two_to_the_31_entries(device):
    """Only three rows of that memory are touched. Offsets that wrapped around would lie in it as well. Rows start at
    multiples of 16 bytes in both, so that the same loads give the same bits."""
    stride, columns = 2**30 + 16, 512
    try:
        memory = torch.empty(2**31 + 2 * stride + columns, dtype=torch.bfloat16, device=device)
    except RuntimeError:
        pytest.skip("needs 9 GB of address space")
    logits = memory.as_strided((3, columns), (stride, 1), 2**31)
    values, targets = sample(3, columns, torch.bfloat16, device)
    logits.copy_(values)
    logprobs, entropy, gradient = run(values, targets)
    logits.requires_grad_()
    outputs = logprob_entropy(logits, targets, inplace_backward=True)
    (written,) = torch.autograd.grad(outputs, logits, slopes(3, device))
    assert torch.equal(outputs[0], logprobs)
    assert torch.equal(outputs[1], entropy)
    assert torch.equal(written, gradient)


@pytest.mark.usefixtures("parts")
def test_backward_in_place(dtype, device):
    logits, targets = sample(4, 3001, dtype, device)
    targets[2] = IGNORE_INDEX
    elsewhere = run(logits, targets, vocab_size=3000 if int(targets.max()) < 3000 else None)
    memory = logits.clone()
    in_place = run(memory, targets, inplace_backward=True, vocab_size=3000 if int(targets.max()) < 3000 else None)
    assert in_place[2].data_ptr() == memory.data_ptr()
    assert all(torch.equal(a, b) for a, b in zip(in_place, elsewhere, strict=True))


@pytest.mark.usefixtures("parts")
def test_every_entry_of_the_gradient_is_written(dtype, device):
    """And nothing beside it."""
    from fastsvs.kernels import rows_triton

    logits, targets = sample(4, 2999, dtype, device)
    targets[1] = IGNORE_INDEX
    statistics = rows_triton.merge_statistics(rows_triton.row_statistics(logits, targets, 0, None), targets)[0]
    results = []
    for poison in (torch.nan, 7.0):
        memory = torch.full((4, 3020), poison, dtype=dtype, device=device)
        out = memory[:, 8:3007]
        rows_triton.logits_gradient(logits, statistics, targets, 0, None, *slopes(4, device), None, out)
        results.append(out.clone())
        out.fill_(poison)
        assert torch.equal(memory.isnan(), torch.full_like(memory, poison).isnan())
    assert not results[0].isnan().any()
    assert torch.equal(*results)


@pytest.mark.usefixtures("parts")
def test_bf16_gradient_of_fp32_logits(device):
    """As it enters a product of bf16 matrices."""
    from fastsvs.kernels import rows_triton

    logits, targets = sample(4, 9001, torch.float32, device)
    targets[:3] = torch.tensor([0, 9000, IGNORE_INDEX])
    statistics = rows_triton.merge_statistics(rows_triton.row_statistics(logits, targets, 0, None), targets)[0]
    out = torch.full((4, 9001), torch.nan, dtype=torch.bfloat16, device=device)
    rows_triton.logits_gradient(logits, statistics, targets, 0, None, *slopes(4, device), None, out)
    wanted = exact.logits_gradient(logits, targets, *slopes(4, device))
    torch.testing.assert_close(out.double(), wanted, atol=1e-6, rtol=2**-7)


@pytest.mark.usefixtures("parts")
def test_one_output_alone(dtype, device):
    logits, targets = sample(4, 2000, dtype, device)
    logits.requires_grad_()
    outputs = logprob_entropy(logits, targets)
    g, h = slopes(4, device)
    for output, alone in ((0, (g, 0 * h)), (1, (0 * g, h))):
        (gradient,) = torch.autograd.grad(outputs[output], logits, alone[output], retain_graph=True)
        (silent,) = torch.autograd.grad(outputs, logits, alone, retain_graph=True)
        wanted = exact.logits_gradient(logits, targets, *alone)
        torch.testing.assert_close(gradient.double(), wanted, atol=2e-6, rtol=2 * HALF_ULP[dtype] + 1e-5)
        torch.testing.assert_close(silent, gradient, atol=1e-6, rtol=2 * HALF_ULP[dtype])


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_gradients_of_a_row_sum_to_0(offset, device):
    logits, targets = sample(4, 5000, torch.float32, device)
    logits = (logits + offset).requires_grad_()
    outputs = logprob_entropy(logits, targets, temperature=0.8)
    for output in outputs:
        (gradient,) = torch.autograd.grad(output.sum(), logits, retain_graph=True)
        assert (gradient.double().sum(1).abs() < 2e-6).all()


@pytest.mark.usefixtures("parts")
def test_twice_the_same_bits_and_a_first_ratio_of_1(dtype, device):
    """The policy's log-probs before any update, taken again: importance ratios are 1, not nearly so."""
    logits, targets = sample(5, 5000, dtype, device)
    first, second = run(logits, targets, temperature=0.9), run(logits, targets, temperature=0.9)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert ((first[0] - second[0]).exp() == 1).all()
    one_by_one = torch.cat([run(logits[i : i + 1], targets[i : i + 1], temperature=0.9)[0] for i in range(5)])
    assert torch.equal(one_by_one, first[0])


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_no_less_exact_than_plain_torch(temperature, dtype, device):
    logits, targets = sample(8, 6000, dtype, device)
    found = run(logits, targets, temperature=temperature)
    plain = logits.clone().requires_grad_()
    logp = (plain / temperature).log_softmax(-1)
    outputs = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    g, h = (slope.to(dtype) for slope in slopes(8, device))
    (gradient,) = torch.autograd.grad(outputs, plain, (g, h))
    wanted = exact.values(logits, targets, temperature)
    slope = exact.logits_gradient(logits, targets, *slopes(8, device), temperature)
    for ours, theirs, truth in zip(found, (*outputs, gradient), (*wanted, slope), strict=True):
        unit = 0.0  # that the rounding of a result may add
        if INTERPRETED and ours.dtype == torch.bfloat16:
            unit = 2**-8  # truncation's share over rounding to the nearest
        elif ours.ndim == 2 and ours.dtype == torch.float32:
            unit = 2**-24  # a gradient that is exact to its last digit but one
        for size in (torch.linalg.vector_norm, lambda x: x.abs().max()):
            assert size(ours.double() - truth) <= size(theirs.detach().double() - truth) + unit * size(truth)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(3, 10, dtype=torch.int64)}, "floating"),
        ({"logits": torch.zeros(10, 3).t()}, "contiguous columns"),
        ({"logits": torch.zeros(3, 10, 1)}, r"targets must be .* \[3, 10\] on cpu, one a row"),
        ({"logits": torch.zeros(10)}, "vocab_shard"),
        ({"targets": torch.tensor([0, 1, 10])}, "outside the vocabulary"),
        ({"targets": torch.tensor([0, 1])}, "targets must be int64"),
        ({"temperature": 0.0}, "above 0"),
        ({"temperature": torch.ones(2)}, "temperature must be a number"),
        ({"vocab_size": 11}, "vocab_size"),
    ],
)
def test_wrong_arguments_are_named(change, message):
    arguments = {"logits": torch.zeros(3, 10), "targets": torch.tensor([0, 1, 2])}
    with pytest.raises(ValueError, match=message):
        logprob_entropy(**(arguments | change))


WRONG_ROWS = [
    (torch.tensor([0, 9, IGNORE_INDEX, 10]), None, "targets must lie in the vocabulary"),
    (torch.tensor([0, 9, IGNORE_INDEX, -1]), None, "targets must lie in the vocabulary"),
    (torch.tensor([0, 9, IGNORE_INDEX, 0]), torch.tensor([1.0, 0.5, 0.0, 1.0]), "temperature must be above 0"),
]


@pytest.mark.skipif(
    not triton_interpreter.LOADED, reason="needs Triton's interpreter: on a GPU a failed assertion ends the process"
)
@pytest.mark.parametrize(("targets", "temperature", "message"), WRONG_ROWS)
def test_the_device_asserts_what_it_alone_knows(targets, temperature, message, monkeypatch):
    from triton.runtime.errors import InterpreterError
    from triton.runtime.interpreter import interpreter_builder

    from fastsvs.kernels.checks_triton import assert_rows

    options = replace(interpreter_builder.options, debug=True, sanitize_overflow=False)
    monkeypatch.setattr(interpreter_builder, "options", options)  # it does not hear of it from the kernel
    assert_rows(targets.clamp(max=9).where(targets >= 0, IGNORE_INDEX), torch.ones(()).expand(4), 10)
    with pytest.raises(InterpreterError, match=message):
        assert_rows(targets, temperature, 10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("targets", "temperature", "message"), WRONG_ROWS)
def test_a_gpu_says_what_is_wrong(targets, temperature, message):
    """In a process of its own, as a failed assertion is the end of it."""
    code = (
        "import torch; from fastsvs.kernels import logprob_entropy\n"
        f"targets = torch.tensor({targets.tolist()}, device='cuda')\n"
        f"temperature = torch.tensor({1.0 if temperature is None else temperature.tolist()}, device='cuda')\n"
        "logprob_entropy(torch.zeros(4, 10, device='cuda'), targets, temperature=temperature)\n"
        "torch.cuda.synchronize()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode != 0
    assert message in ended.stderr
