"""Attention that a recomputed layer does not run again: the same bits, its inputs forgotten in between."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from policy_cases import CONFIGS, GSPO, hf_gradients, make_batch, save_model
from pydantic import ValidationError
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from fastsvs.algorithms import policy_loss
from fastsvs.architecture import read_architecture
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_layout
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


SETTINGS: list[tuple[dict[str, Any], float]] = [
    ({"recompute": "full"}, 2.0),
    ({"recompute": "full", "recompute_layers": 2}, 2.0),
    ({"recompute": "full", "recompute_method": "block", "recompute_layers": 3}, 1.75),
    ({"recompute": "full", "recompute_method": "block", "recompute_layers": 4}, 2.0),
    ({"recompute": "all_but_attention"}, 1.0),
    ({"recompute": "all_but_attention", "recompute_layers": 4}, 1.0),
    ({"recompute": "all_but_attention", "recompute_method": "block", "recompute_layers": 2}, 1.0),
]
"""Settings for a stage of four layers, and how often attention then runs for each layer."""


def test_gradients_are_the_same_bits_and_attention_runs_as_often_as_it_must(folder, monkeypatch):
    calls = []

    def counted(*arguments: object, **settings: object) -> Tensor:
        calls.append(arguments)
        return attend(*arguments, **settings)

    attend = modules.attend
    monkeypatch.setattr(modules, "attend", counted)

    def gradients(settings: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
        config = PolicyConfig(dtype="fp32", tokens_per_micro_batch=200, **settings)
        policy = Policy(ModelConfig(path=str(folder)), config, seed=0, total_updates=8, max_sequence_tokens=128)
        batch = make_batch()
        weights = torch.linspace(1e-3, 5e-3, len(batch.kinds))
        calls.clear()
        policy.accumulate_gradients(batch, policy_loss(GSPO), GSPO, weights, 1.0)
        return {name: gradient.clone() for name, gradient in hf_gradients(policy).items()}, len(calls)

    expected, once = gradients({"recompute": "none"})
    for settings, times in SETTINGS:
        found, count = gradients(settings)
        assert count == times * once, settings
        assert all(torch.equal(found[name], gradient) for name, gradient in expected.items()), settings


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="needs oneDNN")
def test_on_a_cpu_layers_that_are_computed_again_keep_the_fast_products(folder):
    def products(recompute: str) -> int:
        config = PolicyConfig(dtype="fp32", recompute=recompute)
        policy = Policy(ModelConfig(path=str(folder)), config, seed=0, total_updates=8, max_sequence_tokens=128)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            policy.accumulate_gradients(make_batch(), policy_loss(GSPO), GSPO, torch.full((12,), 1e-3), 1.0)
        return sum(event.count for event in seen.key_averages() if event.key == "mkldnn::_linear_pointwise")

    once = products("none")  # a product of each linear layer forward, two backward
    assert once > 0
    assert products("full") == once * 4 // 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recompute_method": "block", "recompute_layers": 3}, "recompute_layers=3 is more than the 2 layers of a"),
        ({"recompute_layers": 3}, "recompute_layers=3 does not divide the 2 layers .* possible: 1, 2, or"),
    ],
)
def test_more_layers_than_a_stage_has(settings, message):
    architecture = read_architecture(CONFIGS["qwen2-tied"])
    with pytest.raises(UserError, match=message):
        check_layout(architecture, PolicyConfig(pipeline_parallel=2, **settings))


def test_layers_to_recompute_where_none_are():
    with pytest.raises(ValidationError, match="but recompute is none"):
        PolicyConfig(recompute="none", recompute_method="block", recompute_layers=2)
