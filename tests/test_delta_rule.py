"""The chunked delta rule and its convolution against one token after another, and against transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen3_5 import modeling_qwen3_5 as reference

from fastsvs.delta_rule import (
    Chunks,
    causal_convolution,
    convolution_step,
    delta_rule,
    delta_step,
    gated_norm,
    gates,
)

KEY_HEADS, HEADS, KEY_DIM, VALUE_DIM, CHANNELS, KERNEL = 2, 4, 8, 6, 5, 4
CPU = torch.device("cpu")
LENGTHS = st.lists(st.integers(0, 21), min_size=1, max_size=5)


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def inputs(tokens: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Query, key, value, logarithm of the decay and step size of a row."""
    sizes = (KEY_HEADS, KEY_DIM), (KEY_HEADS, KEY_DIM), (HEADS, VALUE_DIM), (HEADS,), (HEADS,)
    query, key, value, decay, step = (draw(i, tokens, *size, dtype=dtype) for i, size in enumerate(sizes))
    return [query, key, value, -decay.square(), step.sigmoid()]


def states(sequences: int) -> Tensor:
    return draw(9, sequences, HEADS, KEY_DIM, VALUE_DIM)


def token_by_token(step: Callable[..., tuple[Tensor, Tensor]], lengths: Sequence[int], *row: Tensor, before: Tensor):
    outputs, after, start = [], [], 0
    for length, state in zip(lengths, before.split(1), strict=True):
        for token in range(start, start + length):
            output, state = step(*(x[token : token + 1] for x in row), state)
            outputs.append(output)
        after.append(state)
        start += length
    return torch.cat(outputs) if outputs else None, torch.cat(after)


@given(LENGTHS, st.sampled_from([1, 4, 64]), st.booleans())
def test_chunks_compute_what_single_tokens_do(lengths: list[int], size: int, begins: bool) -> None:
    row = inputs(sum(lengths))
    before = states(len(lengths)) if begins else torch.zeros(len(lengths), HEADS, KEY_DIM, VALUE_DIM).double()
    output, after = delta_rule(*row, Chunks.of(lengths, CPU, size), before if begins else None)
    expected, expected_after = token_by_token(delta_step, lengths, *row, before=before)
    assert torch.allclose(after, expected_after, atol=1e-12)
    assert output.shape == row[2].shape
    assert expected is None or torch.allclose(output, expected, atol=1e-12)


@given(LENGTHS, st.integers(1, 5), st.booleans())
def test_convolution_of_a_row_is_that_of_its_tokens(lengths: list[int], kernel: int, begins: bool) -> None:
    x, weight = draw(0, sum(lengths), CHANNELS), draw(1, CHANNELS, kernel)
    window = draw(2, len(lengths), kernel - 1, CHANNELS) * begins
    output, after = causal_convolution(x, weight, Chunks.of(lengths, CPU), window if begins else None)
    expected, expected_after = token_by_token(
        lambda x, window: convolution_step(x, weight, window), lengths, x, before=window
    )
    assert torch.allclose(after, expected_after)
    assert output.shape == x.shape
    assert expected is None or torch.allclose(output, expected)


@pytest.mark.parametrize("tokens", [1, 63, 64, 200])
def test_transformers_computes_the_same(tokens: int) -> None:
    row = inputs(tokens, torch.float32)
    output, after = delta_rule(*row, Chunks.of([tokens], CPU))
    query, key = (x.repeat_interleave(HEADS // KEY_HEADS, dim=1) for x in row[:2])
    arguments = [x[None] for x in (query, key, *row[2:])]
    expected, expected_after = reference.torch_chunk_gated_delta_rule(
        *arguments, output_final_state=True, use_qk_l2norm_in_kernel=True
    )
    assert torch.allclose(output, expected[0], atol=1e-6)
    assert torch.allclose(after, expected_after, atol=1e-6)

    x, weight = draw(0, tokens, CHANNELS, dtype=torch.float32), draw(1, CHANNELS, KERNEL, dtype=torch.float32)
    output, _ = causal_convolution(x, weight, Chunks.of([tokens], CPU))
    expected = reference.causal_conv1d_fn(x.T[None], weight, activation="silu")
    assert torch.allclose(output, expected[0].T, atol=1e-6)


def test_the_parts_around_it_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    norm = reference.Qwen3_5RMSNormGated(VALUE_DIM, eps=1e-6)
    norm.weight.data = torch.randn(VALUE_DIM)
    x, gate = draw(0, 7, HEADS, VALUE_DIM, dtype=torch.float32), draw(1, 7, HEADS, VALUE_DIM, dtype=torch.float32)
    assert torch.allclose(gated_norm(x, gate, norm.weight, 1e-6), norm(x, gate), atol=1e-6)
    step, decay, log_rate, bias = draw(2, 7, HEADS), draw(3, 7, HEADS), draw(4, HEADS), draw(5, HEADS)
    expected = -log_rate.exp() * torch.log1p((decay + bias).exp())
    assert torch.allclose(gates(step, decay, log_rate, bias)[0], expected)
    assert torch.allclose(gates(step, decay, log_rate, bias)[1], 1 / (1 + (-step).exp()))


def test_gradients_are_those_of_single_tokens() -> None:
    lengths = [3, 11, 1, 4]
    tokens = sum(lengths)
    row, before = inputs(tokens), states(len(lengths))
    weights, after_weights = draw(7, tokens, HEADS, VALUE_DIM), draw(8, len(lengths), HEADS, KEY_DIM, VALUE_DIM)

    def gradients(output: Tensor, after: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad((output * weights).sum() + (after * after_weights).sum(), leaves)

    leaves = [x.requires_grad_() for x in (*row, before)]
    chunked = gradients(*delta_rule(*leaves[:5], Chunks.of(lengths, CPU, 4), leaves[5]), leaves)
    single = gradients(*token_by_token(delta_step, lengths, *leaves[:5], before=leaves[5]), leaves)
    for mine, expected in zip(chunked, single, strict=True):
        assert torch.allclose(mine, expected, atol=1e-12)

    leaves = [draw(0, tokens, CHANNELS), draw(1, CHANNELS, KERNEL), draw(2, len(lengths), KERNEL - 1, CHANNELS)]
    chunks = Chunks.of(lengths, CPU)
    assert torch.autograd.gradcheck(
        lambda x, weight, window: causal_convolution(x, weight, chunks, window), [x.requires_grad_() for x in leaves]
    )


def test_nothing_goes_from_one_sequence_to_the_next() -> None:
    row = [x.requires_grad_() for x in inputs(30)]
    output, _ = delta_rule(*row, Chunks.of([13, 17], CPU, 4))
    for gradient in torch.autograd.grad(output[13:].sum(), row):
        assert not gradient[:13].any()
    x = draw(0, 30, CHANNELS).requires_grad_()
    output, _ = causal_convolution(x, draw(1, CHANNELS, KERNEL), Chunks.of([13, 17], CPU))
    assert not torch.autograd.grad(output[13:].sum(), x)[0][:13].any()


def test_a_strong_decay_overflows_nothing() -> None:
    row = inputs(100, torch.float32)
    row[3] = row[3] * 100
    leaves = [x.requires_grad_() for x in row]
    output, after = delta_rule(*leaves, Chunks.of([100], CPU))
    assert output.isfinite().all()
    assert after.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(output.sum(), leaves))


def test_the_state_of_bf16_is_fp32() -> None:
    row = inputs(50, torch.bfloat16)
    output, after = delta_rule(*row, Chunks.of([20, 30], CPU, 16))
    expected, _ = delta_rule(*(x.double() for x in row), Chunks.of([20, 30], CPU, 16))
    assert (output.dtype, after.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(output, expected.bfloat16()) or (output - expected).abs().max() < 1e-2
