"""Whole runs whose checkpoints are written in the background, and whose state leaves its device meanwhile."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from whole_runs import ROOT, SFT, SMALL, TRAIN, Refuse, command, environment, files

from bench.kills.jobs import record
from fastsvs.files import read_jsonl


@pytest.fixture(scope="module")
def alone(fastsvs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "alone"
    result = fastsvs(*TRAIN, f"run.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("offload", ["optimizer", "all"])
def test_offloaded_runs_have_the_same_bits(fastsvs, alone: Path, tmp_path: Path, offload: str) -> None:
    folder = tmp_path / "run"
    options = [f"policy.offload={offload}", "algorithm.kl_coefficient=0.0", f"run.dir={folder}"]
    result = fastsvs(*TRAIN, *options)
    assert result.returncode == 0, result.stderr
    assert record(folder) == record(alone)
    assert files(folder) == files(alone)
    rows = read_jsonl(folder / "metrics.jsonl")
    assert all(row["time/offload"] > 0 for row in rows[1:])  # before the first update nothing is there to move


def test_rows_tell_what_the_checkpoints_before_took(alone: Path) -> None:
    first, *rest = read_jsonl(alone / "metrics.jsonl")
    assert "time/save" not in first
    assert rest
    for row in rest:
        assert 0 < row["time/save"] < row["time/step"]
    assert any("time/checkpoint_write" in row for row in rest)


@pytest.mark.parametrize("job", [SFT, TRAIN], ids=["sft", "train"])
def test_a_full_disk_ends_the_run_with_one_message(job: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [argument for argument in job if not argument.startswith("run.steps")]
    line = command(*arguments, "run.steps=50", "evaluation.path=null", f"run.dir={folder}")
    if job is SFT:
        line.remove("evaluation.path=null")
    result = subprocess.run(
        ["bash", "-c", 'ulimit -f 200; exec "$@"', "-", *line],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert f"cannot be written to {folder}/checkpoints, earlier ones are as they were: " in result.stderr
    assert "File too large" in result.stderr
    assert "Traceback" not in result.stderr
    assert os.listdir(folder / "checkpoints") == []
    assert 1 <= len(read_jsonl(folder / "metrics.jsonl")) <= 3


def test_offload_needs_phases(refuse: Refuse) -> None:
    assert "policy.offload makes room for rollouts, and fine-tuning has none" in refuse(*SFT, "policy.offload=all")
    options = ["train.staleness=1", "rollout.engine=vllm", "algorithm.rollout_correction=tis", "policy.offload=all"]
    said = refuse("train", "configs/tiny_svs.yaml", *SMALL, *options)
    assert "policy.offload=all moves state away while rollouts run, but with train.staleness=1" in said
