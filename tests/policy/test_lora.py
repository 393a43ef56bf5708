"""Adapters of low rank: one process computes what the formula says, and every layout what one process does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lora_cases import ALL, ALPHA, RANK, adapter_gradients, save_adapter, with_adapter
from megatron.core import parallel_state as mpu
from policy_cases import (
    GSPO,
    PPO,
    assert_layout_agrees,
    hf_gradients,
    make_batch,
    reference_gradients,
    reference_statistics,
    relative_error,
    save_model,
)
from policy_ranks import run_ranks
from transformers import AutoModelForCausalLM

from fastsvs.algorithms import policy_loss
from fastsvs.config import LoraConfig, ModelConfig, OptimizerConfig, PolicyConfig
from fastsvs.policy import FrozenBase, Policy
from fastsvs.policy.learned import adapter_entries
from fastsvs.policy.weights import hf_weights

ATTENTION = ("q_proj", "v_proj", "o_proj")
MODELS = {
    "qwen2-tied": ALL,
    "qwen3-untied": ("v_proj", "down_proj", "up_proj"),
    "llama3-untied": ("o_proj", "k_proj", "gate_proj"),
    "qwen2-moe-shared": ATTENTION,
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2-sp": {"tensor_parallel": 2},
    "tp2": {"tensor_parallel": 2, "sequence_parallel": False},
    "tp2-pp2-sp-recompute": {"tensor_parallel": 2, "pipeline_parallel": 2, "recompute": "full"},
    "cp2-tp2": {"context_parallel": 2, "tensor_parallel": 2},
    "pp2-recompute-one": {
        "pipeline_parallel": 2,
        "recompute": "all_but_attention",
        "recompute_method": "block",
        "recompute_layers": 1,
    },
}
CASES = [("qwen2-tied", layout) for layout in LAYOUTS]
CASES += [("qwen3-untied", "tp2-sp"), ("llama3-untied", "tp2-pp2-sp-recompute"), ("qwen2-moe-shared", "ep2-tp2")]
CASES += [("qwen2-moe-shared", "ep2-etp2")]
MIXTURE_LAYOUTS = {
    "ep2-tp2": {"expert_parallel": 2, "tensor_parallel": 2},
    "ep2-etp2": {"expert_parallel": 2, "expert_tensor_parallel": 2},
}


def build(model: Path, adapter: Path, targets: tuple[str, ...], **settings: Any) -> Policy:
    lora = LoraConfig(rank=RANK, alpha=ALPHA, targets=targets, adapter=str(adapter))
    config = PolicyConfig(
        dtype="fp32",
        tokens_per_micro_batch=200,
        optimizer=OptimizerConfig(learning_rate=1e-3, max_grad_norm=1e-2),
        lora=lora,
        **{"recompute": "none"} | settings,
    )
    return Policy(ModelConfig(path=str(model)), config, seed=5, total_updates=4, max_sequence_tokens=128)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Model and adapter by name."""
    found = {}
    for name, targets in MODELS.items():
        root = tmp_path_factory.mktemp(name)
        found[name] = save_model(name, root / "model"), save_adapter(root / "model", root / "adapter", targets)
    return found


@pytest.mark.parametrize("name", MODELS)
def test_log_probs_and_gradients_are_those_of_the_formula(name: str, folders: dict[str, tuple[Path, Path]]) -> None:
    mpu.destroy_model_parallel()
    policy, batch, weights = build(*folders[name], MODELS[name]), make_batch(), torch.linspace(1e-3, 5e-3, 12)
    model = with_adapter(*folders[name], torch.float64)
    with torch.no_grad():
        expected, _ = reference_statistics(model, batch, 0.7)
    assert (policy.log_probs(batch, 0.7) - expected).abs().max() < 1e-5
    for algorithm in (PPO, GSPO):
        loss, _ = reference_gradients(model, batch, policy_loss(algorithm), algorithm, weights, 0.7)
        found = policy.accumulate_gradients(batch, policy_loss(algorithm), algorithm, weights, 0.7)
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
        wanted = adapter_gradients(model)
        actual = hf_gradients(policy)
        assert actual.keys() == wanted.keys()
        assert max(relative_error(actual[key], wanted[key]) for key in wanted) < 1e-5


def test_published_weights_are_merged(folders: dict[str, tuple[Path, Path]]) -> None:
    mpu.destroy_model_parallel()
    path, adapter = folders["qwen3-untied"]
    policy, batch = build(path, adapter, MODELS["qwen3-untied"]), make_batch()
    first = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    policy.update(batch, policy_loss(PPO), PPO, torch.full((12,), 3e-3), 0.7)
    published = {name: value.clone() for name, value in policy.hf_weights()}
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model.load_state_dict(published, strict=False)
    with torch.no_grad():
        expected, _ = reference_statistics(model, batch, 0.7)
    assert (policy.log_probs(batch, 0.7) - expected).abs().max() < 1e-5
    changed = {name for name, value in first.named_parameters() if not torch.equal(value, published[name])}
    assert {name.split(".")[-2] for name in changed} == set(MODELS["qwen3-untied"])
    assert len(changed) == 3 * 4


def test_reference_is_the_model_without_adapters(folders: dict[str, tuple[Path, Path]]) -> None:
    mpu.destroy_model_parallel()
    path, adapter = folders["llama3-untied"]
    policy, batch = build(path, adapter, MODELS["llama3-untied"]), make_batch()
    with torch.no_grad():
        expected, _ = reference_statistics(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), batch, 0.7)
    before = policy.log_probs(batch, 0.7)
    assert (FrozenBase(policy).log_probs(batch, 0.7) - expected).abs().max() < 1e-5
    assert torch.equal(policy.log_probs(batch, 0.7), before), "its adapters are on again"
    assert (before - expected).abs().max() > 0.1


def results_of(model: Path, adapter: Path, targets: tuple[str, ...], **layout: Any) -> dict[str, Any]:
    """Everything that must not depend on the layout."""
    policy = build(model, adapter, targets, **layout)
    batch, weights = make_batch(), torch.linspace(1e-3, 5e-3, 12)
    initial = adapters_of(policy)
    log_probs = policy.log_probs(batch, 0.7)
    gradients = {}
    for algorithm in (GSPO, PPO):
        policy.accumulate_gradients(batch, policy_loss(algorithm), algorithm, weights, 0.7)
        gradients |= {f"{algorithm.loss} {name}": value for name, value in hf_gradients(policy).items()}
    updates = [policy.update(batch, policy_loss(PPO), PPO, weights, 0.7) for _ in range(2)]
    merged = {name: value.clone() for name, value in policy.hf_weights()}
    blocks = policy.weight_blocks()
    values = blocks.values(list(merged))
    torn = [
        name
        for name, block in blocks.held().items()
        if not torch.equal(block.of(merged[name]), values[name].view(len(values[name]), -1)[: block.shape[0]])
    ]
    final = adapters_of(policy)
    mpu.destroy_model_parallel()
    return {
        "initial": initial,
        "log_probs": log_probs,
        "gradients": gradients,
        "updates": updates,
        "merged": merged,
        "torn": torn,
        "final": final,
    }


def adapters_of(policy: Policy) -> dict[str, torch.Tensor]:
    tensors = dict(policy.stage.named_parameters())
    return {name: value.clone() for name, value in hf_weights(tensors, policy.architecture, adapter_entries)}


def every_layout(folders: dict[str, tuple[Path, Path]]) -> dict[tuple[str, str], dict[str, Any]]:
    layouts = LAYOUTS | MIXTURE_LAYOUTS
    return {(name, layout): results_of(*folders[name], MODELS[name], **layouts[layout]) for name, layout in CASES}


@pytest.fixture(scope="module")
def by_rank(folders: dict[str, tuple[Path, Path]], tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return run_ranks(every_layout, 4, tmp_path_factory.mktemp("ranks"), folders)


@pytest.fixture(scope="module")
def alone(folders: dict[str, tuple[Path, Path]]) -> dict[str, dict[str, Any]]:
    mpu.destroy_model_parallel()
    return {name: results_of(*folders[name], MODELS[name]) for name in folders}


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_computes_what_one_process_computes(
    model: str, layout: str, by_rank: list[dict], alone: dict[str, dict[str, Any]]
) -> None:
    expected, actual = alone[model], by_rank[0][model, layout]
    assert_layout_agrees(actual, expected)
    for name, weight in expected["merged"].items():
        assert (actual["merged"][name] - weight).abs().max() < 5e-5, name
    for rank in by_rank:
        assert rank[model, layout]["torn"] == [], "what a rank sends is its block of what all publish"
        assert all(torch.equal(rank[model, layout]["final"][n], actual["final"][n]) for n in actual["final"])
