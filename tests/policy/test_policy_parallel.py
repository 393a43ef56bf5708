"""Four real processes: every layout computes what one process computes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import (
    GSPO,
    PPO,
    assert_layout_agrees,
    hf_gradients,
    make_batch,
    save_model,
    surprised,
    surprised_by_token,
)
from policy_ranks import run_ranks

from fastsvs.algorithms import policy_loss
from fastsvs.config import ModelConfig, OptimizerConfig, PolicyConfig
from fastsvs.policy import Policy, TokenWatch

LAYOUTS = {
    "dp4": {},
    "tp2-sp": {"tensor_parallel": 2},
    "tp2": {"tensor_parallel": 2, "sequence_parallel": False},
    "pp2-recompute-one": {
        "pipeline_parallel": 2,
        "recompute": "all_but_attention",
        "recompute_method": "block",
        "recompute_layers": 1,
    },
    "tp2-pp2-sp": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "pp4-recompute": {"pipeline_parallel": 4, "recompute": "full"},
    "cp2": {"context_parallel": 2},
    "cp4-recompute": {"context_parallel": 4, "recompute": "all_but_attention"},
    "cp2-tp2-sp": {"context_parallel": 2, "tensor_parallel": 2},
    "cp2-pp2": {"context_parallel": 2, "pipeline_parallel": 2},
}
MIXTURE_LAYOUTS = {
    "tp2-sp": LAYOUTS["tp2-sp"],
    "ep2": {"expert_parallel": 2},
    "ep2-tp2": {"expert_parallel": 2, "tensor_parallel": 2},
    "ep4-tp2-recompute": {"expert_parallel": 4, "tensor_parallel": 2, "recompute": "full"},
    "pp2-ep2": {"expert_parallel": 2, "pipeline_parallel": 2},
    "cp2-ep2": {"context_parallel": 2, "expert_parallel": 2},
    "cp2-tp2-ep4": {"context_parallel": 2, "tensor_parallel": 2, "expert_parallel": 4},
    "etp2": {"expert_tensor_parallel": 2},
    "tp2-etp2": {"tensor_parallel": 2, "expert_tensor_parallel": 2},
    "ep2-etp2": {"expert_parallel": 2, "expert_tensor_parallel": 2},
    "tp2-ep2-etp2-recompute": {
        "tensor_parallel": 2,
        "expert_parallel": 2,
        "expert_tensor_parallel": 2,
        "recompute": "full",
    },
    "pp2-etp2": {"pipeline_parallel": 2, "expert_tensor_parallel": 2},
    "cp2-etp4": {"context_parallel": 2, "expert_tensor_parallel": 4},
    "tp2-pp2-ep2": {"tensor_parallel": 2, "pipeline_parallel": 2, "expert_parallel": 2},
}
CASES = [("qwen2-tied", layout) for layout in LAYOUTS] + [("qwen3-untied", "tp2-sp"), ("qwen3-untied", "tp2-pp2-sp")]
CASES += [("qwen3-untied", "cp4-recompute")]
CASES += [
    ("qwen3-moe", "tp2-sp"),
    ("qwen3-moe", "ep2"),
    ("qwen2-moe-shared", "ep2-tp2"),
    ("mixtral", "ep4-tp2-recompute"),
    ("qwen2-moe-shared", "pp2-ep2"),
    ("qwen3-moe", "cp2-ep2"),
    ("mixtral", "cp2-tp2-ep4"),
    ("qwen3-moe-sparse", "ep2-tp2"),
    ("qwen2-moe-late", "pp2-ep2"),
    ("qwen3-moe", "etp2"),
    ("qwen2-moe-shared", "tp2-etp2"),
    ("qwen2-moe-shared", "ep2-etp2"),
    ("mixtral", "tp2-ep2-etp2-recompute"),
    ("qwen2-moe-late", "pp2-etp2"),
    ("qwen3-moe", "cp2-etp4"),
]
CASES += [("qwen3.5", layout) for layout in ("tp2-sp", "pp2-recompute-one", "tp2-pp2-sp")]
CASES += [("qwen3-next", "ep2-tp2"), ("qwen3-next", "pp2-ep2"), ("qwen3.5-moe", "tp2-pp2-ep2")]

A_FEW = 6
"""Number of layouts that one set of processes serves."""


def results_of(model: str, initialize: str, tokens_per_micro_batch: int = 200, **layout: Any) -> dict[str, Any]:
    """Everything that must not depend on the layout."""
    config = PolicyConfig(
        dtype="fp32",
        tokens_per_micro_batch=tokens_per_micro_batch,
        optimizer=OptimizerConfig(learning_rate=1e-3, max_grad_norm=1e-2),
        **{"recompute": "none"} | layout,
    )
    source = ModelConfig(path=model, initialize=initialize)  # type: ignore[arg-type]
    policy = Policy(source, config, seed=5, total_updates=4, max_sequence_tokens=128)
    initial = {name: value.clone() for name, value in policy.hf_weights()}
    batch, weights = make_batch(), torch.linspace(1e-3, 5e-3, 12)
    log_probs = policy.log_probs(batch, 0.7)
    mean_log_probs = policy.statistics(batch, 0.7, certainty=True).mean_logprobs
    metrics, gradients = {}, {}
    for algorithm in (GSPO, PPO):
        found = policy.accumulate_gradients(batch, policy_loss(algorithm), algorithm, weights, 0.7)
        metrics |= {f"{algorithm.loss} {name}": value for name, value in found.items()}
        gradients |= {f"{algorithm.loss} {name}": value for name, value in hf_gradients(policy).items()}
    for loss in (surprised, surprised_by_token):
        found = policy.accumulate_gradients(batch, loss, PPO, weights, 0.7)
        metrics |= {f"{loss.__name__} {name}": value for name, value in found.items()}
    watch = TokenWatch()
    watched = replace(batch, watched=[(f"{sample}", 0) if sample % 3 else None for sample in range(len(batch))])
    updates = [policy.update(watched, policy_loss(PPO), PPO, weights, 0.7, watch=watch)]
    updates.append(policy.update(batch, policy_loss(PPO), PPO, weights, 0.7, watch=watch))
    few = make_batch(samples=2)
    few_log_probs = policy.log_probs(few, 0.7)
    updates.append(policy.update(few, policy_loss(GSPO), GSPO, weights[:2], 0.7))
    final = {name: value.clone() for name, value in policy.hf_weights()}
    mpu.destroy_model_parallel()
    return {
        "initial": initial,
        "log_probs": log_probs,
        "mean_log_probs": mean_log_probs,
        "few_log_probs": few_log_probs,
        "watched": watch.gathered(),
        "metrics": metrics,
        "gradients": gradients,
        "updates": updates,
        "final": final,
    }


def each_layout(models: dict[str, str], cases: list[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    results = {}
    for name, layout in cases:
        source = ("qwen3-untied", "random") if name == "random" else (name, "pretrained")
        results[name, layout] = results_of(models[source[0]], source[1], **(LAYOUTS | MIXTURE_LAYOUTS)[layout])
    return results


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        name: str(save_model(name, tmp_path_factory.mktemp(name))) for name in dict.fromkeys(name for name, _ in CASES)
    }


@pytest.fixture(scope="module")
def by_rank(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict]]:
    """Results of each rank. Processes serve a few layouts only: the threads of all groups that they ever had go on."""
    found: list[dict[tuple[str, str], dict]] = [{} for _ in range(4)]
    cases = [*CASES, ("random", "tp2-pp2-sp")]
    for start in range(0, len(cases), A_FEW):
        ranks = run_ranks(each_layout, 4, tmp_path_factory.mktemp("ranks"), models, cases[start : start + A_FEW])
        found = [before | more for before, more in zip(found, ranks, strict=True)]
    return found


@pytest.fixture(scope="module")
def alone(models: dict[str, str]) -> dict[str, dict[str, Any]]:
    mpu.destroy_model_parallel()
    results = {name: results_of(path, "pretrained") for name, path in models.items()}
    return results | {"random": results_of(models["qwen3-untied"], "random")}


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_layout_computes_what_one_process_computes(
    model: str, layout: str, by_rank: list[dict], alone: dict[str, dict[str, Any]]
) -> None:
    expected, actual = alone[model], by_rank[0][model, layout]
    assert_layout_agrees(actual, expected)
    assert (actual["mean_log_probs"] - expected["mean_log_probs"]).abs().max() < 1e-5
    assert (actual["few_log_probs"] - expected["few_log_probs"]).abs().max() < 1e-4, "ranks without a sample"
    assert actual["watched"].keys() == expected["watched"].keys()
    assert all((actual["watched"][name] - seen).abs().max() < 1e-5 for name, seen in expected["watched"].items())
    assert actual["metrics"] == pytest.approx(expected["metrics"], rel=1e-4)
    assert len(actual["gradients"]) == 2 * len(expected["initial"])


def test_random_weights_do_not_depend_on_the_layout(by_rank: list[dict], alone: dict[str, dict]) -> None:
    expected = alone["random"]["initial"]
    actual = by_rank[0]["random", "tp2-pp2-sp"]["initial"]
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_all_ranks_see_the_same(by_rank: list[dict]) -> None:
    for case, first in by_rank[0].items():
        for other in by_rank[1:]:
            assert other[case]["metrics"] == first["metrics"]
            assert other[case]["updates"] == first["updates"]
            assert torch.equal(other[case]["log_probs"], first["log_probs"])
            for name, weight in first["final"].items():
                assert torch.equal(other[case]["final"][name], weight), (case, name)
