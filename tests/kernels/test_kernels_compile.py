"""The operators as torch sees them: fake tensors, registrations, whole graphs of torch.compile, CUDA graphs."""

import pytest
import torch
from torch import Tensor, library
from torch._subclasses.fake_tensor import FakeTensorMode

from fastsvs.kernels import (
    IGNORE_INDEX,
    Head,
    PolicyLossSettings,
    TokenInputs,
    Truncation,
    linear_logprob,
    linear_logprob_entropy,
    linear_policy_loss,
    logprob,
    logprob_entropy,
)

TOKENS, WIDTH, VOCAB = 13, 8, 37
SETTINGS = PolicyLossSettings(kl_coefficient=0.1, entropy_coefficient=0.05, rollout_correction="tis")


def sample() -> tuple[Tensor, Tensor, Tensor, Tensor, TokenInputs]:
    """(hidden, weight, bias, targets, inputs)."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    leaves = (normal(*shape).requires_grad_() for shape in ((TOKENS, WIDTH), (VOCAB, WIDTH), (VOCAB,)))
    targets = torch.randint(VOCAB, (TOKENS,), generator=generator)
    targets[3] = IGNORE_INDEX
    near = [normal(TOKENS) - 3 for _ in range(3)]
    return *leaves, targets, TokenInputs(normal(TOKENS), torch.rand(TOKENS, generator=generator), *near)


def from_hidden(hidden, weight, bias, targets, inputs, **options) -> Tensor:
    outputs = linear_logprob_entropy(hidden, Head(weight, bias, 20.0), targets, return_lse=True, **options)
    return sum((values * inputs.advantages).sum() for values in outputs)


def from_loss(hidden, weight, bias, targets, inputs, **options) -> Tensor:
    result = linear_policy_loss(hidden, Head(weight, bias, 20.0), targets, inputs, SETTINGS, **options)
    return 2 * result.loss + result.metrics["ratio"].sum()


def from_logits(hidden, weight, bias, targets, inputs, **options) -> Tensor:
    logprobs, entropy = logprob_entropy(torch.addmm(bias, hidden, weight.t()), targets, **options)
    return (logprobs * inputs.advantages + entropy).sum()


def from_part_of_the_loss(*arguments, **options) -> Tensor:
    return from_loss(*arguments, exact=False, tau=0.1, **options)


WORKS = {"hidden": from_hidden, "loss": from_loss, "logits": from_logits}


def results(work, leaves, *others, **options) -> list[Tensor]:
    value = work(*leaves, *others, **options)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("name", WORKS)
def test_a_whole_graph_compiles_and_gives_the_same(name, validate):
    *leaves, targets, inputs = sample()
    compiled = torch.compile(WORKS[name], fullgraph=True, backend="aot_eager")
    options = {"validate": validate, "temperature": 0.7}
    found = results(compiled, leaves, targets, inputs, **options)
    for ours, expected in zip(found, results(WORKS[name], leaves, targets, inputs, **options), strict=True):
        torch.testing.assert_close(ours, expected)


def test_a_graph_of_a_loss_that_leaves_tokens_out():
    *leaves, targets, inputs = sample()
    compiled = torch.compile(from_part_of_the_loss, fullgraph=True, backend="aot_eager")
    found, exact = (results(work, leaves, targets, inputs) for work in (compiled, from_loss))
    for ours, expected in zip(found, results(from_part_of_the_loss, leaves, targets, inputs), strict=True):
        torch.testing.assert_close(ours, expected)
    assert not torch.equal(found[1], exact[1])


@pytest.mark.parametrize("name", WORKS)
def test_one_graph_serves_any_number_of_tokens(name):
    *leaves, targets, inputs = sample()
    compiled = torch.compile(WORKS[name], fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (13, 9, 5):
        x, *others = leaves
        some = x.detach()[:count].requires_grad_(), *others
        given = targets[:count], inputs.at(slice(count))
        for ours, expected in zip(results(compiled, some, *given), results(WORKS[name], some, *given), strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("name", WORKS)
def test_without_validation_the_results_are_the_same(name):
    """Ignored rows are computed with the others, and count for nothing."""
    *leaves, targets, inputs = sample()
    for ours, expected in zip(
        results(WORKS[name], leaves, targets, inputs, validate=False),
        results(WORKS[name], leaves, targets, inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, expected)


def test_without_validation_every_result_of_an_ignored_row_is_0():
    *leaves, targets, inputs = sample()
    result = linear_policy_loss(leaves[0], leaves[1], targets, inputs, SETTINGS, validate=False)
    outputs = linear_logprob_entropy(leaves[0], leaves[1], targets, validate=False, return_lse=True)
    for values in (result.logprobs, result.entropy, *result.metrics.values(), *outputs):
        assert values[3] == 0
    assert torch.autograd.grad(result.loss, leaves[0])[0][3].abs().max() == 0


@pytest.mark.parametrize("name", ["hidden", "loss"])
def test_without_validation_nothing_is_read_back_from_the_device(name, monkeypatch):
    """On a GPU a value on the host, and a shape that depends on values, are waited for."""
    *leaves, targets, inputs = sample()

    def refuse(*_arguments):
        raise AssertionError("this waits for the device")

    for method in ("tolist", "item", "nonzero"):
        monkeypatch.setattr(Tensor, method, refuse)
    results(WORKS[name], leaves, targets, inputs, validate=False)
    with pytest.raises(AssertionError, match="waits"):
        results(WORKS[name], leaves, targets, inputs)


@pytest.mark.parametrize("name", WORKS)
def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones(name):
    *leaves, targets, inputs = sample()
    real = results(WORKS[name], leaves, targets, inputs)
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        *fakes, ids = (mode.from_tensor(values) for values in (*leaves, targets))
        given = TokenInputs(*(mode.from_tensor(getattr(inputs, field)) for field in TokenInputs.__slots__))
        found = results(WORKS[name], fakes, ids, given)
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in real]


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("truncation", [Truncation(), Truncation(5, 0.8)], ids=["whole", "truncated"])
def test_torchs_own_checks_of_the_operators(truncation):
    hidden, weight, bias, targets, inputs = sample()
    place = VOCAB, 0, None
    library.opcheck(
        linear_logprob.linear_statistics,
        (hidden, weight, bias, targets, None, 20.0, truncation.top_k, truncation.top_p, *place, None, True, False),
        test_utils=CHECKS,
    )
    logits = (hidden @ weight.t()).detach()
    statistics = logprob.row_logprobs(logits, targets, None, *place, True, False)[2]
    library.opcheck(
        logprob.row_logprobs, (logits.clone().requires_grad_(), targets, None, *place, True, False), test_utils=CHECKS
    )
    slopes = inputs.advantages, inputs.weights
    for operator in (logprob.row_gradient, logprob.row_gradient_):
        library.opcheck(operator, (logits, targets, None, statistics, *slopes, VOCAB, 0), test_utils=CHECKS)
    vectors = (getattr(inputs, name) for name in TokenInputs.__slots__)
    operators = torch.ops.fastsvs__kernels
    for main_grad, tau in ((None, 0.1), (torch.zeros(VOCAB, WIDTH), None)):
        library.opcheck(
            operators.policy_loss.default,
            (
                *(leaf.detach() for leaf in (hidden, weight, bias)),
                targets,
                None,
                *vectors,
                main_grad,
                *SETTINGS.packed(),
                None,
                truncation.top_k,
                truncation.top_p,
                *place,
                None,
                True,
                tau,
                True,
                True,
                True,
            ),
            test_utils=CHECKS,
        )
        vectors = (getattr(inputs, name) for name in TokenInputs.__slots__)
    gradients = (torch.randn_like(leaf) for leaf in (hidden, weight, bias))
    library.opcheck(
        operators.with_gradients.default,
        (hidden, weight, bias, torch.zeros(()), *gradients, False),
        test_utils=CHECKS,
    )


def narrowed(leaves) -> list[Tensor]:
    return [leaf.detach().bfloat16().requires_grad_() for leaf in leaves]


def from_kept(hidden, weight, bias, targets, inputs, **options) -> Tensor:
    outputs = linear_logprob_entropy(hidden, Head(weight, bias), targets, workspace_bytes=1 << 20, **options)
    return sum((values * inputs.advantages).sum() for values in outputs)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("validate", [True, False])
def test_a_graph_that_keeps_logits(validate):
    """Whole, for any number of tokens, and on fake tensors, with the bits of what is not compiled."""
    *leaves, targets, inputs = sample()
    leaves, options = narrowed(leaves), {"validate": validate}
    compiled = torch.compile(from_kept, fullgraph=True, backend="aot_eager", dynamic=True)
    for count in (13, 9, 5):
        x, *others = leaves
        some = x.detach()[:count].requires_grad_(), *others
        given = targets[:count], inputs.at(slice(count))
        for ours, expected in zip(
            results(compiled, some, *given, **options), results(from_kept, some, *given, **options), strict=True
        ):
            assert torch.equal(ours, expected)
    real = results(from_kept, leaves, targets, inputs, **options)
    exact = results(from_kept, leaves, targets, inputs, keep_logits=False, **options)
    assert not torch.equal(real[1], exact[1])
    with FakeTensorMode(allow_non_fake_inputs=False) as mode:
        *fakes, ids = (mode.from_tensor(values) for values in (*leaves, targets))
        given = TokenInputs(*(mode.from_tensor(getattr(inputs, field)) for field in TokenInputs.__slots__))
        found = results(from_kept, fakes, ids, given, **options)
    assert [(x.shape, x.dtype) for x in found] == [(x.shape, x.dtype) for x in real]


@pytest.mark.usefixtures("narrow")
def test_torchs_own_checks_of_the_operators_on_kept_logits():
    *leaves, targets, inputs = sample()
    leaves, place = narrowed(leaves), (VOCAB, 0)
    given = *leaves, targets, None, None, None, None, *place, None, None, True, True
    library.opcheck(linear_logprob.linear_statistics, given, test_utils=CHECKS)
    with torch.no_grad():
        *_, statistics, _, tops, kept = linear_logprob.linear_statistics(*given)
    slopes = inputs.advantages, inputs.weights, None
    operands = *(leaf.detach() for leaf in leaves), targets, None, statistics, tops, kept
    library.opcheck(
        torch.ops.fastsvs__kernels.kept_backward.default,
        (*operands, *slopes, *place, True, True, True, True),
        test_utils=CHECKS,
    )


def test_settings_survive_the_way_into_an_operator():
    for settings in (
        PolicyLossSettings(),
        PolicyLossSettings("sapo", dual_clip=None, icepop_range=(0.1, 9.0), kl_estimator="k1", tis_cap=7.0),
    ):
        assert PolicyLossSettings.unpacked(*settings.packed()) == settings


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", [*WORKS, "kept"])
def test_a_cuda_graph_replays_on_new_values(name):
    work = {**WORKS, "kept": from_kept}[name]
    *leaves, targets, inputs = sample()
    leaves = [leaf.detach().to("cuda", torch.bfloat16).requires_grad_() for leaf in leaves]
    targets = targets.cuda()
    inputs = TokenInputs(*(getattr(inputs, field).cuda() for field in TokenInputs.__slots__))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # compiles, and takes cuBLAS's workspace
        results(work, leaves, targets, inputs, validate=False)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(work, leaves, targets, inputs, validate=False)
    with torch.no_grad():
        leaves[0].mul_(0.5)
        targets[5] = IGNORE_INDEX
    graph.replay()
    for ours, expected in zip(captured, results(work, leaves, targets, inputs, validate=False), strict=True):
        assert torch.equal(ours, expected)
