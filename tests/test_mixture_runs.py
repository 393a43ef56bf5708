"""Runs of the tiny model with experts on two ranks, each with half of them: SFT, export, and RL with a kill in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from killed_runs import assert_same_end, killed_after_a_step
from safetensors import safe_open
from whole_runs import ROOT, SMALL

from fastsvs.files import read_jsonl

EXPERTS = "policy.expert_parallel=2"
SFT = (
    *("sft", "configs/tiny_moe_sft.yaml", EXPERTS, "data.limit=16", "policy.optimizer.warmup_steps=0"),
    *("run.prompts_per_step=8", "run.steps=2", "run.save_every=2"),
)


@pytest.fixture(scope="module")
def base(fastsvs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that two steps of SFT export."""
    folder = tmp_path_factory.mktemp("mixture")
    result = fastsvs(*SFT, f"run.dir={folder / 'sft'}", f"export={folder / 'base'}", processes=2)
    assert result.returncode == 0, result.stderr
    return folder / "base"


def test_sft_exports_whole_experts(base: Path) -> None:
    shape = json.loads((ROOT / "models" / "tiny_moe" / "config.json").read_text())
    with safe_open(base / "model.safetensors", "pt") as file:
        names = set(file.keys())
    for layer in range(shape["num_hidden_layers"]):
        for expert in range(shape["num_experts"]):
            assert f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight" in names
    rows = read_jsonl(base.parent / "sft" / "metrics.jsonl")
    assert all(0 < row["experts/entropy"] <= 1 and 1 / 8 <= row["experts/largest_share"] <= 1 / 2 for row in rows)


def test_killed_run_ends_as_one_left_alone(fastsvs, base: Path, tmp_path: Path) -> None:
    """The reward needs no right answers, of which this base gives none."""
    words = ["train", "configs/tiny_moe_svs.yaml", *SMALL, EXPERTS, f"model.path={base}", "evaluation.path=null"]
    words += ["run.steps=2", "rollout.max_response_tokens=48", "policy.router_replay=rollout"]
    words += ["selfplay.stage=none", "algorithm.reward=log_prob", "logging.token_share=1"]
    assert fastsvs(*words, f"run.dir={tmp_path / 'alone'}", processes=2).returncode == 0
    killed = killed_after_a_step(fastsvs, words, tmp_path / "killed")
    assert_same_end(fastsvs, tmp_path / "alone", killed)
    rows = read_jsonl(killed / "metrics.jsonl")
    assert [row["policy/updates"] for row in rows] == [1, 1]
    assert all(row["policy/rollout_mismatch_max"] < 1e-3 for row in rows), "experts are those of the rollout"
    looked = fastsvs("analyze", str(killed), str(killed), "--step", "1")
    assert looked.returncode == 0, f"one process reads what two have learned from: {looked.stderr}"
