"""A prompt computed once for all its responses: the log-probs and gradients of a prompt for each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from policy_cases import PPO, make_batch, save_model
from policy_ranks import run_ranks
from shared_cases import GROUPS, RECOMPUTE, assert_same, build, make_groups, results_of

from fastsvs.algorithms import policy_loss
from fastsvs.policy import policy as policy_module

BATCHES = {
    "groups of all sizes": make_groups(),
    "one group": make_groups([8], seed=1),
    "pairs": make_groups([2] * 5, seed=2),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2-sp": {"tensor_parallel": 2},
    "pp2": {"pipeline_parallel": 2},
    "tp2-pp2-recompute": {"tensor_parallel": 2, "pipeline_parallel": 2, "recompute": "all_but_attention"},
    "cp4": {"context_parallel": 4},
    "cp2-tp2-recompute": {"context_parallel": 2, "tensor_parallel": 2, "recompute": "all_but_attention"},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model("qwen2-tied", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def unshared(model: str) -> dict[str, dict[str, Any]]:
    policy = build(model, shared_prefix=False)
    found = {name: results_of(policy, batch) for name, batch in BATCHES.items()}
    assert all(results["metrics"]["gspo tokens_saved"] == 0 for results in found.values())
    return found


@pytest.mark.parametrize("recompute", RECOMPUTE)
def test_passes_are_those_of_a_prompt_for_each_response(
    recompute: str, model: str, unshared: dict[str, dict[str, Any]]
) -> None:
    policy = build(model, **RECOMPUTE[recompute])
    for name, batch in BATCHES.items():
        assert_same(results_of(policy, batch), unshared[name])


def every_layout(model: str) -> dict[str, dict[str, Any]]:
    name = "groups of all sizes"
    return {layout: results_of(build(model, **settings), BATCHES[name]) for layout, settings in LAYOUTS.items()}


def test_layouts(model: str, unshared: dict, tmp_path_factory: pytest.TempPathFactory) -> None:
    by_rank = run_ranks(every_layout, 4, tmp_path_factory.mktemp("ranks"), model)
    for results in by_rank:
        for found in results.values():
            assert_same(found, unshared["groups of all sizes"])


def test_groups_of_one_give_the_same_bits(model: str) -> None:
    batch = make_batch()
    one, other = (results_of(build(model, shared_prefix=share), batch) for share in (True, False))
    assert one["metrics"] == other["metrics"]
    assert one["metrics"]["ppo tokens_saved"] == 0
    for name in ("logprobs", "entropy", "mean_logprobs"):
        assert torch.equal(one[name], other[name])
    assert all(torch.equal(one["gradients"][name], gradient) for name, gradient in other["gradients"].items())


def test_updates_report_the_share_of_tokens_saved(model: str) -> None:
    batch = make_groups()
    whole = sum(map(len, batch.prompt_ids)) + sum(map(len, batch.response_ids))
    prompts = {(kind, ids.tobytes()): len(ids) for kind, ids in zip(batch.kinds, batch.prompt_ids, strict=True)}
    kept = sum(prompts.values()) + sum(map(len, batch.response_ids))
    policy = build(model, tokens_per_micro_batch=2000)
    metrics = policy.update(batch, policy_loss(PPO), PPO, torch.full((len(batch),), 1e-3), 1.0)
    assert metrics["tokens_saved"] == pytest.approx(1 - kept / whole)
    assert len(prompts) == len(GROUPS) - 1


def test_the_log_says_whether_prompts_are_shared(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "computed once for all its samples in a row" in build(model).facts[1]
    assert build(model, shared_prefix=False).facts[1].endswith("computed with each of its samples")
    monkeypatch.setattr(policy_module, "shares", lambda *place: False)
    policy = build(model, shared_prefix=True)
    assert "no attention here serves policy.shared_prefix" in policy.facts[1]
    batch = make_groups([4, 4])
    metrics = policy.accumulate_gradients(batch, policy_loss(PPO), PPO, torch.ones(8), 1.0)
    assert metrics["tokens_saved"] == 0
