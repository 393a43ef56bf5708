"""Real policies on four ranks: every layout sends the tensors that `hf_weights` gives, to workers of any number."""

from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core import parallel_state as mpu

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
from policy_cases import save_model
from policy_ranks import run_ranks
from receiving_fleet import Fleet

from fastsvs import distributed
from fastsvs.config import ModelConfig, PolicyConfig, SyncConfig
from fastsvs.policy import Policy
from fastsvs.sync import BroadcastSync, WeightSyncError

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2-dp2": {"tensor_parallel": 2},
    "pp2-dp2": {"pipeline_parallel": 2},
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "pp4": {"pipeline_parallel": 4},
}
MIXTURE_LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2-ep4": {"tensor_parallel": 2, "expert_parallel": 4},
    "pp2-ep2": {"pipeline_parallel": 2, "expert_parallel": 2},
}
CASES = [
    *(("qwen2-tied", layout, "fp32") for layout in LAYOUTS),
    ("qwen2-moe-shared", "tp2-ep4", "fp32"),
    ("qwen3-moe", "pp2-ep2", "bf16"),
    ("qwen3-untied", "tp2-pp2", "bf16"),
    ("llama3-untied", "pp2-dp2", "bf16"),
]
BUCKET_BYTES = 30_000
"""Of 290 to 600 kB, so that parameters whose tensors fall into two buckets occur, and buckets of two stages."""


def both(models: dict[str, str], folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return every_layout(models, folder), failures_in_lockstep(models["qwen2-tied"], folder)


def every_layout(models: dict[str, str], folder: str) -> dict[str, Any]:
    """What went wrong on this rank, by case; nothing where all is well."""
    config = SyncConfig(bucket_bytes=BUCKET_BYTES, timeout_seconds=30.0, verify=True)
    main = distributed.is_main()
    faults = {}
    with closing(Fleet(1, 2)) if main else nullcontext() as fleet:
        for version, (name, layout, dtype) in enumerate(CASES):
            policy = build(models[name], dtype, (LAYOUTS | MIXTURE_LAYOUTS)[layout])
            expected = {key: value.clone() for key, value in policy.hf_weights()}
            with closing(BroadcastSync(policy, fleet, config)) as sync:
                sync.publish(version)
            faults[name, layout, dtype] = differences(fleet, expected, Path(folder)) if main else []
            mpu.destroy_model_parallel()
    return faults


def failures_in_lockstep(model: str, folder: str) -> dict[str, Any]:
    """A server dies amid the broadcast of two stages; then one refuses the weights for good."""
    config = SyncConfig(bucket_bytes=BUCKET_BYTES, timeout_seconds=20.0, attempts=2)
    main = distributed.is_main()
    with closing(Fleet(1, 1)) if main else nullcontext() as fleet:
        policy = build(model, "fp32", LAYOUTS["tp2-pp2"])
        expected = {key: value.clone() for key, value in policy.hf_weights()}
        with closing(BroadcastSync(policy, fleet, config)) as sync:
            sync.publish(1)
            if fleet is not None:
                fleet.misbehave("server 0", "die")
            sync.publish(2)
            result: dict[str, Any] = {"faults": differences(fleet, expected, Path(folder)) if main else []}
            result["retries"] = sync.metrics().get("sync/retries")
            if fleet is not None:
                fleet.misbehave("server 1", "refuse")
            try:
                sync.publish(3)
            except WeightSyncError as error:
                result["error"] = str(error)
        mpu.destroy_model_parallel()
    return result


def build(path: str, dtype: str, layout: dict[str, Any]) -> Policy:
    config = PolicyConfig(dtype=dtype, recompute="none", **layout)  # type: ignore[arg-type]
    return Policy(ModelConfig(path=path), config, seed=0, total_updates=0, max_sequence_tokens=64)


def differences(fleet: Fleet | None, expected: dict[str, torch.Tensor], folder: Path) -> list[str]:
    assert fleet is not None
    return [
        f"{server}: {name}"
        for server in fleet.running
        for worker in fleet.tensors(server, folder)
        for name in expected.keys() | worker.keys()
        if name not in expected or name not in worker or not torch.equal(expected[name], worker[name])
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {name: str(save_model(name, tmp_path_factory.mktemp(name))) for name in dict.fromkeys(c[0] for c in CASES)}


@pytest.fixture(scope="module")
def by_rank(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, dict]]:
    folder = tmp_path_factory.mktemp("ranks")
    return run_ranks(both, 4, folder, models, str(folder))


def test_every_layout_sends_whole_hugging_face_tensors(by_rank: list[tuple[dict, dict]]) -> None:
    faults, _ = by_rank[0]
    assert faults == {case: [] for case in CASES}


def test_all_ranks_retry_and_fail_together(by_rank: list[tuple[dict, dict]]) -> None:
    results = [failures for _, failures in by_rank]
    assert results[0]["faults"] == []
    assert results[0]["retries"] == 1
    assert all("version 3" in result["error"] and "no parameter" in result["error"] for result in results)
