"""Whole runs through the command line: what they leave, on one process and on four, and what export makes of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from whole_runs import ROOT, SMALL

from bench.kills.jobs import OF_THE_MACHINE
from fastsvs.architecture import load_hf_config, read_architecture
from fastsvs.data import load_tokenizer
from fastsvs.files import read_jsonl
from fastsvs.plan import Cluster, Machines, as_json, assumed_step, plan_job, read_hardware
from fastsvs.planned import Figure, compare
from fastsvs.policy import read_job


@pytest.fixture(scope="module")
def finished(launched, tmp_path_factory) -> Path:
    """A small SvS run, done."""
    folder = tmp_path_factory.mktemp("runs") / "svs"
    result = launched("train", "configs/tiny_svs.yaml", *SMALL, f"run.dir={folder}")
    assert result.returncode == 0, result.stderr
    (folder.parent / "stdout").write_text(result.stdout)
    return folder


def test_a_run_leaves_its_record(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["seed"] == 0
    for moment in ("before", "after"):
        for name in ("pass@1", "pass@2"):
            estimate = summary[moment][name]
            assert 0 <= estimate["low"] <= estimate["mean"] <= estimate["high"] <= 1
    assert {path.name for path in finished.iterdir()} >= {
        *(
            "config.yaml",
            "environment.json",
            "plan.json",
            "metrics.jsonl",
            "curves.png",
            "curves-dark.png",
            "summary.json",
        ),
        *("samples", "checkpoints"),
    }
    assert len(list((finished / "checkpoints").iterdir())) == 2


def test_a_run_records_its_plan_and_can_be_held_against_it(finished: Path) -> None:
    recorded = json.loads((finished / "plan.json").read_text())
    assert (recorded["nodes"], recorded["gpus"], recorded["hardware"]) == (1, 1, "cpu")
    job = read_job(finished)
    architecture, machines = (
        read_architecture(load_hf_config(job.model.path)),
        Machines(Cluster(1, 1), read_hardware("cpu")),
    )
    plan = plan_job(architecture, job, machines, assumed_step(job))
    assert json.loads(json.dumps(as_json(plan, []))) == recorded["plan"]
    planned = {name: Figure(**figure) for name, figure in recorded["figures"].items()}
    found = {one.metric for one in compare(planned, read_jsonl(finished / "metrics.jsonl"))}
    assert found >= {"time/rollout", "time/generation", "time/verification", "time/update", "time/sync", "time/step"}
    assert found >= {"throughput/response_tokens_per_second", "system/peak_memory"}


def test_the_console_shows_steps_estimates_and_self_made_problems(finished: Path) -> None:
    shown = (finished.parent / "stdout").read_text()
    for fact in ("step 3/3", "entropy", "held-out pass@1:", "self-made problem 1", "solve rate", "curves.png"):
        assert fact in shown


def test_metrics_hold_one_row_a_step_with_all_groups_of_names(finished: Path) -> None:
    rows = read_jsonl(finished / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    names = {"reward/original", "solve_rate/original", "policy/entropy", "policy/grad_norm", "time/step"}
    assert all(names <= row.keys() for row in rows)
    assert any(row.get("kept_samples/variant", 0) > 0 for row in rows)


def test_samples_tell_the_family_of_every_problem(finished: Path) -> None:
    for step in (1, 2, 3):
        groups = {row["key"]: row for row in read_jsonl(finished / "samples" / f"step_{step}.jsonl")}
        for row in groups.values():
            assert len(row["responses"]) == len(row["rewards"])
            if row["kind"] == "variant":
                synthesis = groups[row["parent"]]
                original = groups[synthesis["parent"]]
                assert row["question"] in synthesis["responses"][row["parent_sample"]]
                assert row["answer"] == original["answer"]
                assert original["verdicts"][synthesis["parent_sample"]] == "correct"


def test_samples_tell_lengths_and_why_problems_were_rejected(finished: Path) -> None:
    for metrics in read_jsonl(finished / "metrics.jsonl"):
        rows = read_jsonl(finished / "samples" / f"step_{metrics['step']}.jsonl")
        assert all(len(row["tokens"]) == len(row["responses"]) and min(row["tokens"]) > 0 for row in rows)
        solved = {(row["parent"], row["parent_sample"]) for row in rows if row["kind"] == "variant"}
        writing = [row for row in rows if row["kind"] == "synthesis"]
        reasons = {(row["key"], sample): reason for row in writing for sample, reason in enumerate(row["rejections"])}
        assert solved == {key for key, reason in reasons.items() if reason is None}
        counted = {name.partition("/")[2]: count for name, count in metrics.items() if name.startswith("rejected/")}
        assert {reason: list(reasons.values()).count(reason) for reason in counted} == counted


def test_finishing_again_changes_nothing(finished: Path, fastsvs) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    result = fastsvs("train", "configs/tiny_svs.yaml", *SMALL, f"run.dir={finished}")
    assert result.returncode == 0, result.stderr
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_export_loads_in_transformers_and_differs_from_the_base(finished: Path, launched, tmp_path: Path) -> None:
    result = launched("export", str(finished), "--out", str(tmp_path / "hf"))
    assert result.returncode == 0, result.stderr
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.chat_template
    base = AutoModelForCausalLM.from_pretrained("models/tiny", dtype=torch.float32)
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), base.parameters(), strict=True)]
    assert all(changed)


@pytest.mark.parametrize("other", ["tensor_parallel", "context_parallel"])
def test_four_processes_learn_what_one_does(finished: Path, fastsvs, tmp_path: Path, other: str) -> None:
    layout = ["policy.pipeline_parallel=2", f"policy.{other}=2"]
    result = fastsvs(
        "train", "configs/tiny_svs.yaml", *SMALL, *layout, "run.steps=1", f"run.dir={tmp_path}/four", processes=4
    )
    assert result.returncode == 0, result.stderr
    exported = fastsvs("export", str(tmp_path / "four"), "--out", str(tmp_path / "hf"))
    assert exported.returncode == 0, exported.stderr  # by one process
    trained = load_file(tmp_path / "hf" / "model.safetensors")
    base = load_file(ROOT / "models" / "tiny" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in trained.items()} == {n: t.shape for n, t in base.items()}
    assert all(0 < (trained[name] - base[name]).abs().max() < 0.01 for name in base)
    alone, four = (read_jsonl(folder / "metrics.jsonl")[0] for folder in (finished, tmp_path / "four"))
    assert alone.keys() == four.keys()
    for name in alone:
        if not name.startswith(OF_THE_MACHINE):
            assert four[name] == pytest.approx(alone[name], rel=1e-3, abs=1e-5), name


def test_rlvr_derives_nothing_and_a_large_batch_takes_several_updates(fastsvs, tmp_path: Path) -> None:
    sizes = [*SMALL, "run.steps=1", "algorithm.samples_per_update=8", "policy.optimizer.schedule=linear"]
    result = fastsvs("train", "configs/tiny_rlvr.yaml", *sizes, f"run.dir={tmp_path}/rlvr")
    assert result.returncode == 0, result.stderr
    kinds = {row["kind"] for row in read_jsonl(tmp_path / "rlvr" / "samples" / "step_1.jsonl")}
    assert kinds == {"original"}
    [row] = read_jsonl(tmp_path / "rlvr" / "metrics.jsonl")
    assert row["policy/updates"] == -(-row["kept_samples/original"] // 8) > 1
    assert row["policy/learning_rate"] == pytest.approx(2e-4)
    assert row["policy/approx_kl"] > 0  # later updates are off-policy


def test_sft_makes_a_model_from_nothing_and_resumes(fastsvs, tmp_path: Path) -> None:
    sizes = ["data.limit=64", "run.prompts_per_step=16", "run.save_every=2"]
    sizes += ["policy.optimizer.warmup_steps=0", "policy.optimizer.schedule=constant"]
    places = [f"run.dir={tmp_path}/run", f"export={tmp_path}/model"]
    for steps in (2, 4):
        result = fastsvs("sft", "configs/tiny_sft.yaml", *sizes, *places, f"run.steps={steps}")
        assert result.returncode == 0, result.stderr
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert load_file(tmp_path / "model" / "model.safetensors")
    assert load_tokenizer(str(tmp_path / "model")).chat_template
