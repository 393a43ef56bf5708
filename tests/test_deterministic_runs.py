"""A few steps of a run with `rollout.deterministic`: policy and engine never differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole_runs import SMALL

from fastsvs.files import read_jsonl

OPTIONS = ["rollout.deterministic=true", "rollout.max_sequences=24", "evaluation.path=null"]


@pytest.mark.parametrize(
    ("processes", "layout"), [(1, []), (2, []), (2, ["policy.pipeline_parallel=2"]), (2, ["policy.context_parallel=2"])]
)
def test_policy_and_engine_never_differ(fastsvs, processes: int, layout: list[str], tmp_path: Path) -> None:
    sizes = [size for size in SMALL if not size.startswith("evaluation.")]
    result = fastsvs(
        "train", "configs/tiny_svs.yaml", *sizes, *OPTIONS, *layout, f"run.dir={tmp_path}/run", processes=processes
    )
    assert result.returncode == 0, result.stderr
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == 3
    for row in rows:
        assert row["policy/updates"] == 1
        assert row["policy/rollout_mismatch"] == row["policy/rollout_mismatch_max"] == row["policy/rollout_kl"] == 0
        assert row["policy/ratio"] == 1
        assert row["policy/grad_norm"] > 0
