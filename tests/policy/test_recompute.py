"""Attention that a recomputed layer does not run again: the same bits, its inputs forgotten in between."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from policy_cases import GSPO, hf_gradients, make_batch, save_model
from torch import Tensor

from fastsvs.algorithms import policy_loss
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.policy import Policy, modules
from fastsvs.policy.recompute import Kept, keep


class Product(torch.autograd.Function):
    """Saves its inputs and its output, as attention does."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = query * key * value
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, ...]:
        query, key, value, output = ctx.saved_tensors
        assert torch.equal(output, query * key * value)
        return gradient * key * value, gradient * query * value, gradient * query * key


def test_inputs_are_forgotten_until_they_come_again():
    inputs = [torch.randn(3, 4) for _ in range(3)]
    copies = [x.clone().requires_grad_() for x in inputs]
    kept: dict[int, Kept] = {}
    with torch.no_grad():
        first = keep(Product.apply, tuple(inputs), kept, 1)
    storages = [weakref.ref(x.untyped_storage()) for x in inputs]
    del inputs
    assert [storage() for storage in storages] == [None] * 3
    second = keep(Product.apply, tuple(copies), kept, 1)
    assert torch.equal(second, first)
    assert not kept
    slopes = torch.randn(3, 4)
    found = torch.autograd.grad(second, copies, slopes)
    expected = torch.autograd.grad(Product.apply(*copies), copies, slopes)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


def test_gradients_are_the_same_bits_and_attention_runs_once(folder, monkeypatch):
    calls = []

    def counted(*arguments: object, **settings: object) -> Tensor:
        calls.append(arguments)
        return attend(*arguments, **settings)

    attend = modules.attend
    monkeypatch.setattr(modules, "attend", counted)
    found, count = {}, {}
    for recompute in ("none", "all_but_attention", "full"):
        config = PolicyConfig(dtype="fp32", recompute=recompute, tokens_per_micro_batch=200)
        policy = Policy(ModelConfig(path=str(folder)), config, seed=0, total_updates=8, max_sequence_tokens=128)
        batch = make_batch()
        weights = torch.linspace(1e-3, 5e-3, len(batch.kinds))
        calls.clear()
        policy.accumulate_gradients(batch, policy_loss(GSPO), GSPO, weights, 1.0)
        count[recompute] = len(calls)
        found[recompute] = {name: gradient.clone() for name, gradient in hf_gradients(policy).items()}
    assert count["full"] == 2 * count["none"]
    assert count["all_but_attention"] == count["none"]
    for recompute in ("all_but_attention", "full"):
        assert all(torch.equal(found[recompute][name], gradient) for name, gradient in found["none"].items())
