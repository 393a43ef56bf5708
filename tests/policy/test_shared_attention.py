"""Attention of responses to themselves and to a prompt that they share, against float64 under one mask."""

from __future__ import annotations

import weakref
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastsvs.policy import attention
from fastsvs.policy.recompute import Kept, keep
from fastsvs.policy.shared_attention import KERNELS, CudaKernel, SharedPrompts, Spans, attend_shared

ROWS = {
    "one group": ([5], [[3, 3, 1, 7]], []),
    "two groups of equal lengths": ([4, 4], [[2, 2], [2, 2]], []),
    "groups, whole sequences and padding": ([1, 6, 9], [[4, 12], [1, 1, 2], [30, 31]], [5, 5, 8, 3]),
    "a long prompt": ([70], [[3, 40, 5]], [2]),
}


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("kernel", ["cpu", "cuda"])
def test_output_and_gradients_are_those_of_one_softmax(name, groups, kernel, monkeypatch):
    """The CUDA kernel runs on stand-ins for torch's two operations, which read the bounds and nothing else."""
    if kernel == "cuda":
        monkeypatch.setitem(KERNELS, "cpu", CudaKernel())
        monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", plain_forward)
        monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", plain_backward)
    packing, mask = row(*ROWS[name])
    generator = torch.Generator().manual_seed(0)
    tensors = tuple(
        torch.randn(len(mask), heads, 8, generator=generator).requires_grad_() for heads in (4, groups, groups)
    )
    slopes = torch.randn(len(mask), 4, 8, generator=generator)
    output = attend_shared(*tensors, packing)
    wide = tuple(x.detach().double().requires_grad_() for x in tensors)
    true = masked(*wide, mask)
    found = (output, *torch.autograd.grad(output, tensors, slopes))
    expected = (true, *torch.autograd.grad(true, wide, slopes.double()))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=2e-6)


def test_recomputation_forgets_the_inputs_and_gives_the_same_bits():
    packing, mask = row(*ROWS["groups, whole sequences and padding"])
    attention = partial(attend_shared, packing=packing)
    inputs = [torch.randn(len(mask), heads, 8) for heads in (4, 2, 2)]
    copies = [x.clone().requires_grad_() for x in inputs]
    kept: dict[int, Kept] = {}
    with torch.no_grad():
        keep(attention, tuple(inputs), kept, 1)
    storages = [weakref.ref(x.untyped_storage()) for x in inputs]
    del inputs
    assert [storage() for storage in storages] == [None] * 3
    slopes = torch.randn(len(mask), 4, 8)
    found = torch.autograd.grad(keep(attention, tuple(copies), kept, 1), copies, slopes)
    expected = torch.autograd.grad(attention(*copies), copies, slopes)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_torch_takes_what_the_cuda_kernel_gives_and_answers_in_its_shapes():
    """Torch's own rules for shapes, without a GPU."""
    draw = [torch.empty(n, heads, 64, dtype=torch.bfloat16, device="meta") for n, heads in ((7, 8), (9, 2), (9, 2))]
    bounds = [torch.empty(3, dtype=torch.int32, device="meta")] * 2
    spans = Spans([3, 4], [4, 5], *bounds, causal=False)
    output, sums = CudaKernel().forward(*draw, spans)
    assert output.shape == (7, 8, 64)
    assert (sums.shape, sums.dtype) == ((8, 7), torch.float32)
    gradients = CudaKernel().backward(output, *draw, output, sums, spans)
    assert [x.shape for x in gradients] == [x.shape for x in draw]


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "present", "expected"),
    [
        (9, torch.bfloat16, 128, True, True),
        (8, torch.float16, 256, True, True),
        (9, torch.bfloat16, 128, False, False),
        (9, torch.float32, 128, True, False),
        (9, torch.bfloat16, 100, True, False),
        (9, torch.bfloat16, 512, True, False),
        (7, torch.bfloat16, 128, True, False),
    ],
)
def test_gpus_that_serve_shared_prompts(capability, dtype, head_dim, present, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (capability, 0))
    monkeypatch.setattr(attention, "present", lambda name: present)
    assert attention.shares(torch.device("cuda"), dtype, head_dim) == expected


def row(prompts: list[int], responses: list[list[int]], others: list[int]) -> tuple[SimpleNamespace, Tensor]:
    """The packing, and which token sees which, [tokens, tokens]."""
    lengths = [*prompts, *(length for answers in responses for length in answers), *others]
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    seen = torch.zeros(ends[-1], ends[-1], dtype=torch.bool)
    for start, end in pairwise(ends):
        seen[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
    heads = [number for number, answers in enumerate(responses) for _ in answers]
    for head, (start, end) in zip(heads, list(pairwise(ends))[len(prompts) :], strict=False):
        seen[start:end, ends[head] : ends[head + 1]] = True
    together = list(map(sum, responses))
    shared = SharedPrompts(prompts, together, bounds_of(prompts), bounds_of(together))
    return SimpleNamespace(lengths=lengths, bounds=bounds_of(lengths), shared=shared), seen


def bounds_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)


def masked(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[2] ** 0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)


def scores_of(query: Tensor, key: Tensor, bounds_q: Tensor, bounds_k: Tensor, causal: bool) -> Tensor:
    """[heads, queries, keys], minus infinity where a query does not look."""
    seen = torch.zeros(len(query), len(key), dtype=torch.bool)
    for (q, q_end), (k, k_end) in zip(pairwise(bounds_q.tolist()), pairwise(bounds_k.tolist()), strict=True):
        block = torch.ones(q_end - q, k_end - k)
        seen[q:q_end, k:k_end] = block.tril().bool() if causal else block.bool()
    assert seen.any(1).all()
    return (torch.einsum("qhd,khd->hqk", query, key) / query.shape[2] ** 0.5).masked_fill(~seen, -torch.inf)


def plain_forward(query, key, value, bounds_q, bounds_k, longest_q, longest_k, dropout, causal, debug):
    assert (longest_q, longest_k) == (bounds_q.diff().max(), bounds_k.diff().max())
    assert (dropout, debug) == (0.0, False)
    scores = scores_of(query, key, bounds_q, bounds_k, causal)
    sums = scores.logsumexp(-1)
    return torch.einsum("hqk,khd->qhd", (scores - sums[..., None]).exp(), value), sums, None, None, None


def plain_backward(
    gradient, query, key, value, output, sums, bounds_q, bounds_k, longest_q, longest_k, dropout, causal, state, unused
):
    """FlashAttention's formulas: https://arxiv.org/abs/2205.14135, appendix B.2."""
    assert sums.is_contiguous()
    assert gradient.is_contiguous()
    weights = (scores_of(query, key, bounds_q, bounds_k, causal) - sums[..., None]).exp()
    delta = (gradient * output).sum(-1).T
    slopes = weights * (torch.einsum("qhd,khd->hqk", gradient, value) - delta[..., None]) / query.shape[2] ** 0.5
    return (
        torch.einsum("hqk,khd->qhd", slopes, key),
        torch.einsum("hqk,qhd->khd", slopes, query),
        torch.einsum("hqk,qhd->khd", weights, gradient),
    )
