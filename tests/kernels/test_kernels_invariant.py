"""Batch invariance of the kernels on a CPU: a token's results have the same bits in any place and company."""

from __future__ import annotations

import pytest
import torch

from fastsvs.kernels import PolicyLossSettings, TokenInputs, batch_invariant, linear_logprob_entropy, linear_policy_loss
from fastsvs.kernels.invariant import ROWS, UNDIVIDED, elementwise, product

WIDTHS = [1, 7, 64, 100, UNDIVIDED + 100]
"""Widths of a line: a part of one vector, whole vectors, a rest, and more than torch leaves undivided."""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("vocabulary", WIDTHS[1:])
def test_a_tokens_log_prob_does_not_depend_on_the_others(vocabulary: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 24, generator=generator) for n in (2 * ROWS + 5, vocabulary))
    targets = torch.randint(vocabulary, (len(hidden),), generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with batch_invariant():
            together = torch.stack(linear_logprob_entropy(hidden, weight, targets, temperature=0.7))
            for part in (slice(0, 1), slice(3, 4), slice(5, 5 + ROWS), slice(-2, None)):
                alone = linear_logprob_entropy(hidden[part], weight, targets[part], temperature=0.7)
                assert torch.equal(torch.stack(alone), together[:, part])
            inputs = TokenInputs(torch.ones(len(hidden)), torch.ones(len(hidden)), together[0], together[0])
            hidden.requires_grad_()
            learned = linear_policy_loss(hidden, weight, targets, inputs, PolicyLossSettings(), temperature=0.7)
            assert torch.equal(learned.logprobs, together[0])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("function", [torch.exp, torch.log, torch.cos, torch.nn.functional.silu])
def test_functions_line_by_line(function: object, width: int) -> None:
    x = torch.rand(5, width, generator=torch.Generator().manual_seed(0)) + 0.5
    assert callable(function)
    with batch_invariant():
        whole = elementwise(function, x)
        assert torch.equal(whole, torch.cat([elementwise(function, row[None]) for row in x]))
    torch.testing.assert_close(whole, function(x))
    assert torch.equal(elementwise(function, x), function(x))


def test_products_are_products() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 40, 24, generator=generator), torch.randn(9, 24, generator=generator)
    torch.testing.assert_close(product(x, weight), x @ weight.T)
    assert product(x[:, :0], weight).shape == (2, 0, 9)


def test_the_mode_ends_with_its_context() -> None:
    weight, hidden, targets = torch.randn(50, 8), torch.randn(3, 8), torch.tensor([1, 2, 3])
    usual = linear_logprob_entropy(hidden, weight, targets)
    with batch_invariant(), batch_invariant(False):
        assert torch.equal(torch.stack(usual), torch.stack(linear_logprob_entropy(hidden, weight, targets)))
