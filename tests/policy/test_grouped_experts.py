"""Grouped products of experts: against float64, and against Megatron's experts one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from megatron.core.transformer.moe.experts import SequentialMLP
from policy_cases import PPO, hf_gradients, make_batch, relative_error, save_model
from policy_ranks import run_ranks
from torch import Tensor

from fastsvs.algorithms import policy_loss
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.policy import Policy, experts
from fastsvs.policy import model as policy_model
from fastsvs.policy.experts import GroupedExperts, grouped_linear, obstacle, stacked

CPU = torch.device("cpu")


def apart(count: int, outputs: int, inputs: int) -> list[Tensor]:
    """Weights at equal distances, with something else between them."""
    block = torch.randn(count, outputs + 3, inputs)
    return [block[i, :outputs].detach().requires_grad_() for i in range(count)]


@pytest.mark.parametrize("counts", [[3, 0, 5, 1], [0, 0, 9, 0], [0, 0, 0, 0]])
def test_products_and_gradients_are_those_of_each_expert(counts: list[int]) -> None:
    torch.manual_seed(0)
    weights = apart(4, 8, 16)
    x = torch.randn(sum(counts), 16, requires_grad=True)
    found = grouped_linear(x, counts, weights)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, *weights)]
    parts = zip(exact[0].split(counts), exact[1:], strict=True)
    expected = torch.cat([part @ weight.t() for part, weight in parts])
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    direction = torch.randn_like(found)
    ours = torch.autograd.grad(found, [x, *weights], direction)
    theirs = torch.autograd.grad(expected, exact, direction.double())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-5)


def test_frozen_experts_pass_gradients_on() -> None:
    weights = [weight.detach() for weight in apart(2, 8, 16)]
    x = torch.randn(5, 16, requires_grad=True)
    grouped_linear(x, [2, 3], weights).sum().backward()
    expected = [weight.sum(0).expand(n, 16) for n, weight in zip((2, 3), weights, strict=True)]
    torch.testing.assert_close(x.grad, torch.cat(expected))


def built(folder: Path, total_updates: int = 4, expert_tensor_parallel: int = 1) -> Policy:
    config = PolicyConfig(
        dtype="fp32",
        recompute="full",
        tokens_per_micro_batch=4096,
        expert_tensor_parallel=expert_tensor_parallel,
    )
    return Policy(ModelConfig(path=str(folder)), config, seed=0, total_updates=total_updates, max_sequence_tokens=128)


def stacks_are_views(policy: Policy) -> bool:
    """Return whether no product copies the experts' weights, of which there must be some."""
    modules = [module for module in policy.stage.modules() if isinstance(module, GroupedExperts)]
    parts = [part for module in modules for part in module._weights()]
    return bool(parts) and all(stacked(part).data_ptr() == part[0].data_ptr() for part in parts)


def learned(policy: Policy) -> tuple[Tensor, dict[str, Tensor], list[str]]:
    batch = make_batch()
    logprobs = policy.log_probs(batch, 1.0)
    policy.accumulate_gradients(batch, policy_loss(PPO), PPO, torch.full((12,), 1e-3), 1.0)
    return logprobs, hf_gradients(policy), [name for name, _ in policy.hf_weights()]


@pytest.mark.parametrize("name", ["qwen3-moe", "qwen2-moe-shared"])
def test_a_policy_computes_as_with_experts_one_after_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(name, tmp_path)
    grouped = built(folder)
    assert "experts: grouped products" in grouped.facts
    frozen = built(folder, total_updates=0)
    assert stacks_are_views(grouped)
    assert stacks_are_views(frozen)
    monkeypatch.setattr(policy_model, "obstacle", lambda *_: "a test asks for it")
    in_turn = built(folder)
    assert any(type(module) is SequentialMLP for module in in_turn.stage.modules())
    assert "experts: one after another, as a test asks for it" in in_turn.facts
    logprobs, gradients, names = learned(grouped)
    assert stacks_are_views(grouped)
    expected, theirs, order = learned(in_turn)
    assert names == order
    assert (logprobs - expected).abs().max() < 1e-5
    assert torch.equal(frozen.log_probs(make_batch(), 1.0), logprobs)
    for key, gradient in theirs.items():
        assert relative_error(gradients[key], gradient) < 1e-4, key


def cut_both_ways(folder: Path) -> dict[str, Any]:
    """Return what two ranks that share every expert compute, in grouped products and one after another."""
    grouped = built(folder, expert_tensor_parallel=2)
    found: dict[str, Any] = {"grouped": learned(grouped), "views": stacks_are_views(grouped)}
    with patch.object(policy_model, "obstacle", lambda *_: "a test asks for it"):
        in_turn = built(folder, expert_tensor_parallel=2)
    modules = [module for module in in_turn.stage.modules() if type(module) is SequentialMLP]
    widths = {expert.linear_fc2.weight.shape[1] for module in modules for expert in module.local_experts}
    return found | {"in turn": learned(in_turn), "widths": widths}


def test_ranks_that_share_experts_compute_them_in_either_way(tmp_path: Path) -> None:
    folder = save_model("qwen3-moe", tmp_path)
    logprobs, gradients, _ = learned(built(folder))
    found = run_ranks(cut_both_ways, 2, tmp_path, folder)[0]
    assert found["views"], "the experts' weights are copied"
    assert found["widths"] == {16}
    for ours, theirs, _ in (found["grouped"], found["in turn"]):
        assert (ours - logprobs).abs().max() < 1e-5
        for key, gradient in gradients.items():
            assert relative_error(theirs[key], gradient) < 1e-4, key


def test_what_keeps_experts_apart_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert obstacle((2048, 768), torch.bfloat16, cuda) is None
    assert (
        obstacle((2048, 770), torch.bfloat16, cuda) == "grouped products need widths that are multiples of 8, not 770"
    )
    assert "policy.dtype=bf16" in str(obstacle((2048, 768), torch.float32, cuda))
    assert obstacle((2048, 770), torch.float32, CPU) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert "capability 9.0" in str(obstacle((2048, 768), torch.bfloat16, cuda))
    monkeypatch.delattr(experts.F, "grouped_mm")
    assert "has no grouped products" in str(obstacle((2048, 768), torch.bfloat16, CPU))
