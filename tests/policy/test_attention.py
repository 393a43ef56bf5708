"""Which attention is taken, and that each takes a packed row apart into its sequences."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastsvs.policy import attention
from fastsvs.policy.attention import IMPLEMENTATIONS, attend, choose, chosen

ALL = tuple(IMPLEMENTATIONS)
LENGTHS = (5, 5, 1, 12, 3)


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "present", "expected"),
    [
        (9, torch.bfloat16, 128, ALL, "flash_attention_3"),
        (9, torch.bfloat16, 128, set(ALL) - {"flash_attention_3"}, "flash_attention_4"),
        (9, torch.bfloat16, 64, {"cudnn", "flash_attention_2", "torch_varlen"}, "cudnn"),
        (9, torch.float16, 128, {"flash_attention_2", "torch_varlen"}, "flash_attention_2"),
        (9, torch.bfloat16, 128, {"torch_varlen"}, "torch_varlen"),
        (9, torch.bfloat16, 192, set(ALL) - {"flash_attention_3"}, "flash_attention_2"),
        (10, torch.bfloat16, 128, ALL, "flash_attention_4"),
        (12, torch.bfloat16, 128, ALL, "flash_attention_2"),
        (8, torch.bfloat16, 128, ALL, "flash_attention_2"),
        (7, torch.float16, 128, ALL, "sdpa"),
        (9, torch.float32, 128, ALL, "sdpa"),
        (9, torch.bfloat16, 100, ALL, "sdpa"),
        (9, torch.bfloat16, 512, ALL, "sdpa"),
        (9, torch.bfloat16, 128, (), "sdpa"),
        (None, torch.bfloat16, 128, ALL, "sdpa"),
    ],
)
def test_choice(capability, dtype, head_dim, present, expected):
    asked = []
    assert choose(capability, dtype, head_dim, lambda name: asked.append(name) or name in present) == expected
    assert expected == "sdpa" or asked[-1] == expected, "what comes after the choice is not imported"


def test_without_a_gpu_it_is_torchs_own():
    assert chosen(torch.device("cpu"), torch.bfloat16, 128) == "sdpa"


def test_a_broken_library_counts_as_absent(monkeypatch):
    def broken(module: str) -> ModuleType:
        raise OSError(f"{module}: undefined symbol")

    monkeypatch.setattr(attention, "import_module", broken)
    assert not any(attention.present(name) for name in IMPLEMENTATIONS)


@pytest.mark.parametrize("groups", [4, 2, 1])
def test_packed_rows_against_float64(groups):
    query, key, value, packing = row(groups)
    assert_same(attend(query, key, value, packing), (query, key, value), packing)


LIBRARIES = {
    "flash_attention_3": ("flash_attn_interface", "flash_attn_varlen_func"),
    "flash_attention_4": ("flash_attn.cute", "flash_attn_varlen_func"),
    "cudnn": ("cudnn.sdpa.fwd.torch_op", "sdpa"),
    "flash_attention_2": ("flash_attn.flash_attn_interface", "flash_attn_varlen_func"),
    "torch_varlen": ("torch.nn.attention.varlen", "varlen_attn"),
}


@pytest.mark.parametrize("name", IMPLEMENTATIONS)
def test_libraries_are_told_where_the_sequences_are(name, monkeypatch):
    """Each is stood in for by one that reads the bounds it gets, as the libraries do."""
    module, function = LIBRARIES[name]
    for depth in range(1, module.count(".") + 2):
        parent = ".".join(module.split(".")[:depth])
        if not parent.startswith("torch") or parent == module:
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
    setattr(sys.modules[module], function, by_bounds)
    query, key, value, packing = row(groups=2)
    output = IMPLEMENTATIONS[name].run(query, key, value, packing)
    assert_same(output, (query, key, value), packing)


def by_bounds(query: Tensor, key: Tensor, value: Tensor, *places: object, **settings: object) -> tuple[Tensor, Tensor]:
    bounds = places[0] if places else settings["cu_seqlens_q"]
    longest = places[2] if places else settings["max_seqlen_q"]
    assert settings.get("causal") or settings.get("is_causal") or settings["window_size"] == (-1, 0)
    assert isinstance(bounds, Tensor)
    assert bounds.dtype == torch.int32
    assert isinstance(longest, int)
    assert longest >= max(LENGTHS)
    assert bounds[-1] == len(query)
    output = masked(query, key, value, SimpleNamespace(bounds=bounds))
    return output, output.new_zeros(query.shape[:2])


def row(groups: int, heads: int = 4, head_dim: int = 8) -> tuple[Tensor, Tensor, Tensor, SimpleNamespace]:
    generator = torch.Generator().manual_seed(0)
    tokens = sum(LENGTHS)
    query, key, value = (
        torch.randn(tokens, n, head_dim, generator=generator, requires_grad=True) for n in (heads, groups, groups)
    )
    bounds = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return query, key, value, SimpleNamespace(lengths=LENGTHS, bounds=bounds)


def assert_same(output: Tensor, tensors: tuple[Tensor, ...], packing: SimpleNamespace) -> None:
    """Output and gradients as of dense attention in float64 under a mask."""
    wide = tuple(x.detach().double().requires_grad_() for x in tensors)
    true = masked(*wide, packing)
    slopes = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    ours = (output, *torch.autograd.grad(output, tensors, slopes))
    theirs = (true, *torch.autograd.grad(true, wide, slopes.double()))
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape
        torch.testing.assert_close(mine.double(), reference, rtol=1e-5, atol=1e-6)


def masked(query: Tensor, key: Tensor, value: Tensor, packing: SimpleNamespace) -> Tensor:
    """[tokens, heads, head_dim]: each token sees those of its sequence up to itself."""
    tokens, heads, head_dim = query.shape
    key, value = (x.repeat_interleave(heads // x.shape[1], 1) for x in (key, value))
    seen = torch.zeros(tokens, tokens, dtype=torch.bool)
    for start, end in pairwise(packing.bounds.tolist()):
        seen[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
    scores = torch.einsum("qhd,khd->hqk", query, key) / head_dim**0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), value)
