"""Update figures that each rank computes of its share of the weights: those of a comparison of whole tensors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from megatron.core import parallel_state as mpu
from policy_cases import save_model
from policy_ranks import run_ranks

from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.dynamics import UNCHANGED, WeightUpdate, compare
from fastsvs.policy import Policy, hf_shapes, open_source
from fastsvs.policy.shares import even_shares
from fastsvs.training.diagnostics import sum_over_ranks, total_change

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "dp4": {},
    "tp4": {"tensor_parallel": 4},
    "tp2": {"tensor_parallel": 2},
    "pp2": {"pipeline_parallel": 2},
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "tp2-ep2": {"tensor_parallel": 2, "expert_parallel": 2},
    "tp2-etp2": {"tensor_parallel": 2, "expert_tensor_parallel": 2},
    "ep2-etp2": {"expert_parallel": 2, "expert_tensor_parallel": 2},
}
MODELS = ("qwen2-tied", "qwen3-untied", "llama3-tied-mha", "qwen2-moe-shared")


def changed(policy: Policy) -> None:
    """Change some weights, as a function of each alone: whatever the layout, it does the same."""
    for parameter in policy.stage.parameters():
        weights = parameter.data
        weights += 1e-3 * (weights > 0.1) + 3e-6 * ((weights > 0.05) & (weights <= 0.1))


def updates_of(path: str, dtype: str, initialize: str, layout: dict[str, Any]) -> dict[str, Any]:
    """Return the update as its shares give it and as whole tensors do, and how many values each rank compared."""
    config = PolicyConfig(dtype=dtype, recompute="none", **layout)  # type: ignore[arg-type]
    model = ModelConfig(path=path, initialize=initialize)  # type: ignore[arg-type]
    policy = Policy(model, config, seed=3, total_updates=0, max_sequence_tokens=64)
    changed(policy)
    names = list(hf_shapes(policy.architecture))
    own = compare(policy.compared_weights())
    source = open_source(model, policy.architecture, seed=3)
    whole = compare((n, source.read(n, None, 0, 0).to(now.dtype), now) for n, now in policy.hf_weights())
    found = {
        "by shares": sum_over_ranks(own, names),
        "whole": whole,
        "own": sum(change.values for change in own.tensors.values()),
        "figures": total_change(policy).figures(),
    }
    mpu.destroy_model_parallel()
    return found


def everything(models: dict[str, str], layouts: list[str]) -> dict[tuple[str, str, str], dict[str, Any]]:
    cases = [
        ("qwen2-tied", "fp32", "pretrained"),
        ("qwen2-tied", "bf16", "random"),
        ("qwen3-untied", "bf16", "pretrained"),
        ("llama3-tied-mha", "bf16", "pretrained"),
        ("qwen2-moe-shared", "bf16", "pretrained"),
    ]
    return {
        (layout, dtype, f"{model}/{initialize}"): updates_of(models[model], dtype, initialize, LAYOUTS[layout])
        for layout in layouts
        for model, dtype, initialize in cases
        if LAYOUTS[layout].get("tensor_parallel", 1) <= (4 if model == "llama3-tied-mha" else 2)
        and ("moe" in model or not any(key.startswith("expert") for key in LAYOUTS[layout]))
    }


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str, str], dict[str, Any]]]:
    models = {name: str(save_model(name, tmp_path_factory.mktemp(name))) for name in MODELS}
    mpu.destroy_model_parallel()
    alone = everything(models, ["one"])
    ranks = run_ranks(
        everything, 4, tmp_path_factory.mktemp("ranks"), models, [name for name in LAYOUTS if name != "one"]
    )
    return [alone | found for found in ranks]


def counts(update: WeightUpdate) -> dict[str, tuple[int, ...]]:
    return {n: (c.values, c.same, c.same_in_bf16, c.within) for n, c in update.tensors.items()}


def test_shares_come_to_the_same_counts_as_whole_tensors(by_rank) -> None:
    for rank in by_rank:
        for case, found in rank.items():
            shared, whole = found["by shares"], found["whole"]
            assert counts(shared) == counts(whole), case
            for name, change in whole.tensors.items():
                assert shared.tensors[name].figures() == pytest.approx(change.figures(), rel=1e-12)
            assert found["figures"] == shared.total().figures()
            assert 0.2 < found["figures"]["sparsity/exact"] < 0.9
            if case[1] == "fp32":
                assert found["figures"]["sparsity/exact"] < found["figures"]["sparsity/tolerance"]


def test_no_layout_changes_a_count(by_rank) -> None:
    for (layout, *case), found in by_rank[0].items():
        alone = by_rank[0]["one", *case]
        assert counts(found["by shares"]) == counts(alone["by shares"]), (layout, case)


def test_every_rank_compares_its_part(by_rank) -> None:
    for layout in set(LAYOUTS) - {"one"}:
        for case in (key for key in by_rank[0] if key[0] == layout):
            values = [rank[case]["own"] for rank in by_rank]
            total = by_rank[0][case]["whole"].total().values
            assert sum(values) == total
            if layout in ("dp4", "tp2"):
                assert max(values) < 0.4 * total


def test_weights_that_are_as_they_were_change_nothing() -> None:
    nothing = {"sparsity/exact": 1.0, "sparsity/bf16": 1.0, "sparsity/tolerance": 1.0, "relative_change": 0.0}
    assert UNCHANGED.figures() == nothing


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 6))
def test_shares_are_even(sizes: list[int], count: int) -> None:
    shares = even_shares(sizes, count)
    assert sorted(index for share in shares for index in share) == list(range(len(sizes)))
    sums = [sum(sizes[index] for index in share) for share in shares]
    assert max(sums) - min(sums) <= max(sizes, default=0)
