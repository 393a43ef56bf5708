"""Experts: their load, the loss that evens it out, and what is refused. Parity and layouts: see the other files."""

from __future__ import annotations

import copy
from dataclasses import asdict
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import (
    CONFIGS,
    MIXTURES,
    PPO,
    hf_gradients,
    make_batch,
    reference_gradients,
    relative_error,
    save_model,
)
from policy_ranks import run_ranks
from stored_names import stored
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3MoeConfig

from fastsvs.algorithms import Batch, policy_loss
from fastsvs.architecture import Architecture, read_architecture
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.layout_checks import check_layout
from fastsvs.policy import Policy

COEFFICIENT = 0.3
FP32 = PolicyConfig(dtype="fp32", recompute="full", tokens_per_micro_batch=4096, shared_prefix=False)


@pytest.fixture(scope="module", params=["qwen3-moe", "qwen2-moe-shared", "qwen3-moe-sparse"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


def build(folder: Path, config: PolicyConfig = FP32) -> Policy:
    return Policy(ModelConfig(path=str(folder)), config, seed=0, total_updates=4, max_sequence_tokens=128)


def reference(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, experts_implementation="eager")


def routers(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """The router's logits of every token of a batch, [tokens, experts] of each layer."""
    found = []
    for prompt, response in zip(batch.prompt_ids, batch.response_ids, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, response]))
        found.append(model(ids[None], output_router_logits=True).router_logits)
    return [torch.cat(layer) for layer in zip(*found, strict=True)]


def loads(logits: Tensor) -> Tensor:
    """How many tokens each expert computes, [experts]."""
    return torch.zeros_like(logits).scatter(1, logits.topk(2, dim=1).indices, 1.0).sum(0)


def aux_loss(logits: Tensor) -> Tensor:
    """Equations 4 to 6 of the Switch Transformer (arXiv 2101.03961), for several experts a token."""
    tokens, experts = logits.shape
    return experts * (loads(logits) / (2 * tokens) * logits.softmax(-1).mean(0)).sum()


def test_auxiliary_loss_adds_its_gradient(folder: Path) -> None:
    batch, weights, loss = make_batch(), torch.linspace(1e-3, 5e-3, 12), policy_loss(PPO)
    model = reference(folder)
    objective, _ = reference_gradients(model, batch, loss, PPO, weights, temperature=0.7)
    losses = [aux_loss(logits) for logits in routers(model, batch)]
    (COEFFICIENT * torch.stack(losses).sum()).backward()
    expected = stored({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, model.config.model_type)

    policy = build(folder, FP32.model_copy(update={"aux_loss_coefficient": COEFFICIENT}))
    metrics = policy.accumulate_gradients(batch, loss, PPO, weights, temperature=0.7)
    assert metrics["loss"] == pytest.approx(objective, rel=1e-5), "the objective itself stays what it is"
    assert metrics["experts/aux_loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
    for name, gradient in hf_gradients(policy).items():
        assert relative_error(gradient, expected[name]) < 1e-4, name


def with_aux_loss(folder: str, layout: dict[str, int]) -> tuple[float, dict[str, Tensor]]:
    policy = build(Path(folder), FP32.model_copy(update={"aux_loss_coefficient": COEFFICIENT, **layout}))
    metrics = policy.accumulate_gradients(make_batch(), policy_loss(PPO), PPO, torch.linspace(1e-3, 5e-3, 12), 0.7)
    gradients = hf_gradients(policy)
    mpu.destroy_model_parallel()
    return metrics["experts/aux_loss"], gradients


def shared_out(folder: str) -> list[tuple[float, dict[str, Tensor]]]:
    return [with_aux_loss(folder, {key: 2}) for key in ("tensor_parallel", "context_parallel")]


def test_auxiliary_loss_of_a_row_that_ranks_share_out(folder: Path, tmp_path: Path) -> None:
    loss, gradients = with_aux_loss(str(folder), {})
    for found, theirs in run_ranks(shared_out, 2, tmp_path, str(folder))[1]:
        assert found == pytest.approx(loss, rel=1e-5)
        for name, gradient in gradients.items():
            assert relative_error(theirs[name], gradient) < 1e-4, name


def test_load_is_that_of_the_router(folder: Path) -> None:
    batch = make_batch()
    policy = build(folder)
    metrics = policy.accumulate_gradients(batch, policy_loss(PPO), PPO, torch.full((12,), 1e-3), temperature=1.0)
    with torch.no_grad():
        shares = [loads(logits) / loads(logits).sum() for logits in routers(reference(folder), batch)]
    entropies = [float(torch.special.entr(share).sum()) / log(4) for share in shares]
    numbers = policy.architecture.expert_layers
    for layer, share, entropy in zip(numbers, shares, entropies, strict=True):
        assert metrics[f"experts/largest_share/layer_{layer}"] == pytest.approx(float(share.max()))
        assert metrics[f"experts/entropy/layer_{layer}"] == pytest.approx(entropy, rel=1e-5)
    assert metrics["experts/entropy"] == pytest.approx(sum(entropies) / 2, rel=1e-5)
    assert metrics["experts/largest_share"] == pytest.approx(max(float(share.max()) for share in shares))
    assert "experts/aux_loss" not in metrics
    assert {name for name in metrics if "/layer_" in name} == {
        f"experts/{name}/layer_{layer}" for name in ("entropy", "largest_share") for layer in numbers
    }


@pytest.mark.parametrize(
    ("model", "settings", "processes", "message"),
    [
        ("qwen3-moe", {"expert_parallel": 3}, 3, "expert_parallel=3 does not divide the model's experts .4.; possible"),
        (
            "qwen3-moe",
            {"expert_parallel": 2},
            3,
            "expert_parallel=2 x policy.pipeline_parallel=1 needs a multiple of 2",
        ),
        (
            "qwen2-moe-shared",
            {"expert_tensor_parallel": 5},
            5,
            "expert_tensor_parallel=5 does not divide the model's feed-forward width of an expert .32.; possible: 1, 2",
        ),
        (
            "qwen3-moe",
            {"expert_parallel": 2, "expert_tensor_parallel": 2},
            6,
            "expert_parallel=2 x policy.expert_tensor_parallel=2 x policy.pipeline_parallel=1 needs a multiple of 4",
        ),
        ("qwen2-tied", {"expert_tensor_parallel": 2}, 2, "expert_tensor_parallel=2: the model has no experts, leave"),
        ("mixtral", {"expert_parallel": 2, "pipeline_parallel": 2}, 2, "needs a multiple of 4 processes, there are 2"),
        ("mixtral", {"tensor_parallel": 2, "sequence_parallel": False}, 2, "sequence_parallel=false: with experts"),
        ("mixtral", {"backend": "te", "dtype": "bf16"}, 1, "experts are computed by policy.backend=local alone"),
        (
            "qwen2-tied",
            {"context_parallel": 3},
            3,
            "context_parallel=3 does not suit the 4 .*: 1, 2, 4",
        ),
        (
            "qwen2-tied",
            {"context_parallel": 4, "tensor_parallel": 2},
            8,
            "the 2 attention heads and 1 .*: 1, 2",
        ),
        ("qwen2-tied", {"context_parallel": 2, "tensor_parallel": 2}, 6, "context_parallel=2 x .* a multiple of 4"),
        ("qwen2-tied", {"expert_parallel": 2}, 2, "expert_parallel=2: the model has no experts, leave the key out"),
        ("qwen2-tied", {"aux_loss_coefficient": 0.1}, 1, "aux_loss_coefficient=0.1: the model has no experts"),
    ],
)
def test_layouts_that_cannot_work_are_refused(model: str, settings: dict, processes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_layout(read_architecture(CONFIGS[model]), PolicyConfig(**settings), processes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_only_layers": [0, 1]}, "no layer with experts"),
        ({"decoder_sparse_step": 3}, "no layer with experts"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step=0 .at least 1"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok=5 .1 to the 4 experts of a layer"),
        ({"num_experts_per_tok": 1}, "its router has no gradient"),
        ({"moe_intermediate_size": 0}, "4 experts of width 0"),
    ],
)
def test_experts_that_would_be_computed_wrongly_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_architecture(Qwen3MoeConfig(**MIXTURES["qwen3-moe"].to_dict() | changes))


@pytest.mark.parametrize("width", [0, -8])
def test_a_shared_expert_has_a_width(width: int) -> None:
    config = copy.copy(CONFIGS["qwen2-moe-shared"])
    config.shared_expert_intermediate_size = width
    with pytest.raises(UserError, match=rf"shared_expert_intermediate_size={width} \(at least 1\)"):
        read_architecture(config)


def test_an_architecture_comes_back_from_a_manifest() -> None:
    for hf in (CONFIGS["qwen2-tied"], *MIXTURES.values()):
        architecture = read_architecture(hf)
        assert Architecture.load(asdict(architecture)) == architecture
