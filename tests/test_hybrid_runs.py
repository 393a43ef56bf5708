"""A run of the tiny hybrid model on two ranks that share each layer, with a kill in it."""

from __future__ import annotations

from pathlib import Path

from killed_runs import assert_same_end, killed_after_a_step
from whole_runs import SMALL

from fastsvs.files import read_jsonl

RUN = (
    *("train", "configs/tiny_hybrid_svs.yaml", *SMALL, "policy.tensor_parallel=2", "policy.sequence_parallel=true"),
    *("model.path=models/tiny_hybrid", "model.tokenizer=models/tiny", "model.initialize=random", "run.steps=2"),
    *("rollout.max_response_tokens=48", "selfplay.stage=none", "algorithm.reward=log_prob", "evaluation.path=null"),
    "logging.token_share=1",
)
"""Two steps from random weights. The reward needs no right answers, of which such a model gives none."""


def test_killed_run_ends_as_one_left_alone(fastsvs, tmp_path: Path) -> None:
    alone = fastsvs(*RUN, f"run.dir={tmp_path / 'alone'}", processes=2)
    assert alone.returncode == 0, alone.stderr
    killed = killed_after_a_step(fastsvs, RUN, tmp_path / "killed")
    assert_same_end(fastsvs, tmp_path / "alone", killed)
    rows = read_jsonl(killed / "metrics.jsonl")
    assert [row["policy/updates"] for row in rows] == [1, 1]
    assert all(row["policy/rollout_mismatch_max"] < 1e-3 for row in rows), "policy and engine compute alike"
