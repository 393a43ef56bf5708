"""Runs of the tiny model with adapters: they learn, survive kills, and end as a merged model or in PEFT's format."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forking import Run
from killed_runs import assert_same_end
from safetensors.torch import load_file, save_file
from whole_runs import ROOT, SMALL, Refuse

from fastsvs.files import read_jsonl
from fastsvs.policy import open_weights

TINY = ROOT / "models" / "tiny"
LORA = ("policy.lora.rank=4", "policy.lora.alpha=8")
SFT = (
    *("sft", "configs/tiny_sft.yaml", "export=null", "data.limit=16", f"model.path={TINY}"),
    *("model.initialize=pretrained", "policy.optimizer.warmup_steps=0", "policy.optimizer.learning_rate=0.01"),
    *("policy.optimizer.schedule=constant", "run.prompts_per_step=16", "run.save_every=4", *LORA),
)
STEPS = 8


@pytest.fixture(scope="module")
def tuned(fastsvs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with adapters."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    result = fastsvs(*SFT, f"run.steps={STEPS}", f"run.dir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def test_adapters_alone_learn(tuned: Path) -> None:
    losses = [row["loss"] for row in read_jsonl(tuned / "metrics.jsonl")]
    assert losses[-1] < 0.9 * losses[0], losses
    first, last = load_file(TINY / "model.safetensors"), dict(open_weights(tuned).hf_weights())
    changed = {name.split(".")[-2] for name in last if not torch.equal(last[name], first[name].float())}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_checkpoint_holds_adapters_and_names_their_base(tuned: Path) -> None:
    newest = sorted((tuned / "checkpoints").iterdir())[-1]
    manifest = json.loads((newest / "manifest.json").read_text())
    recorded = json.loads((tuned / "inputs.json").read_text())["model"]["weights"]
    assert manifest["state"]["base"] == {"path": str(TINY), "weights": recorded}
    names = {name for file in newest.glob("*.safetensors") for name in load_file(file)}
    assert {name.split("/")[0] for name in names} == {"master", "exp_avg", "exp_avg_sq"}
    assert all(".adapters.lora_" in name for name in names)
    stored = sum(file.stat().st_size for file in newest.iterdir())
    assert stored < (TINY / "model.safetensors").stat().st_size


def test_both_exports_are_the_policy(fastsvs, tuned: Path, tmp_path: Path) -> None:
    for out, more in (("merged", []), ("adapter", ["--adapter"])):
        result = fastsvs("export", str(tuned), "--out", str(tmp_path / out), *more)
        assert result.returncode == 0, result.stderr
    merged, base = load_file(tmp_path / "merged" / "model.safetensors"), load_file(TINY / "model.safetensors")
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (4, 8.0, str(TINY))
    for name, weight in merged.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        expected = base[name].double()
        if f"{stem}.lora_A.weight" in adapter:
            down, up = (adapter[f"{stem}.lora_{which}.weight"].double() for which in "AB")
            expected = expected + settings["lora_alpha"] / settings["r"] * up @ down
        assert (weight - expected).abs().max() < 1e-6, name
    result = fastsvs(*SFT, "run.steps=1", f"policy.lora.adapter={tmp_path / 'adapter'}", f"run.dir={tmp_path / 'on'}")
    assert result.returncode == 0, result.stderr
    [on] = read_jsonl(tmp_path / "on" / "metrics.jsonl")
    rows = read_jsonl(tuned / "metrics.jsonl")
    assert on["loss"] < rows[-1]["loss"], "it goes on where the other one ended"


def test_run_of_another_shape_begins_with_a_runs_adapters(fastsvs, tuned: Path, tmp_path: Path) -> None:
    words = (*SFT, "run.steps=1", f"model.from_run={tuned}")
    one = fastsvs(*words, f"run.dir={tmp_path / 'one'}")
    assert "beginning with the weights and the optimizer's moments of" in one.stdout
    two = fastsvs(*words, f"run.dir={tmp_path / 'two'}", "policy.tensor_parallel=2", processes=2)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    [first], [second] = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert first["loss"] < read_jsonl(tuned / "metrics.jsonl")[-1]["loss"]
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)


def test_killed_run_ends_as_one_left_alone(fastsvs, tmp_path: Path) -> None:
    words = ["train", "configs/tiny_svs.yaml", *SMALL, *LORA, "run.steps=2", "evaluation.path=null"]
    words += [f"model.path={TINY}", "policy.optimizer.learning_rate=0.01", "selfplay.stage=none"]
    words += ["algorithm.reward=log_prob", "rollout.max_response_tokens=48", "algorithm.kl_coefficient=0.05"]
    words += ["logging.token_share=1"]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert fastsvs(*words, f"run.dir={alone}").returncode == 0
    session = Run(*words, f"run.dir={killed}")
    while not (killed / "checkpoints" / "step_00000001").exists():
        assert session.poll() is None
        time.sleep(0.02)
    session.kill()
    session.wait(60)
    assert fastsvs(*words, f"run.dir={killed}").returncode == 0
    assert_same_end(fastsvs, alone, killed)
    rows = read_jsonl(killed / "metrics.jsonl")
    assert all(row["policy/rollout_mismatch_max"] < 1e-3 for row in rows), "rollouts had the merged weights"


def test_other_base_is_refused(fastsvs, tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    run = tmp_path / "run"
    words = [*(word for word in SFT if not word.startswith("model.path")), f"model.path={model}", "run.steps=1"]
    assert fastsvs(*words, f"run.dir={run}").returncode == 0
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    exported = fastsvs("export", str(run), "--out", str(tmp_path / "out"))
    assert exported.returncode == 2
    assert "others than those that it was trained on" in exported.stderr
    begun = fastsvs(*words, f"run.dir={tmp_path / 'next'}", f"model.from_run={run}")
    assert begun.returncode == 2
    assert "others than those that it was trained on" in begun.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("policy.lora.rank=-1", "policy.lora.rank"),
        ("policy.lora.alpha=0", "policy.lora.alpha"),
        ("policy.lora.targets=[q_proj,embed_tokens]", "'q_proj', 'k_proj'"),
        ("policy.lora.targets=[]", "at least one projection"),
        ("policy.lora.adapter=models/tiny", "no folder of PEFT's"),
        ("policy.backend=te policy.dtype=bf16", "policy.backend=te: adapters"),
        ("merging.hook=merge", "adapters alone learn"),
    ],
)
def test_what_cannot_be_is_refused(refuse: Refuse, monkeypatch, change: str, message: str) -> None:
    monkeypatch.chdir(ROOT)
    said = refuse("train", "configs/tiny_svs.yaml", f"model.path={TINY}", *LORA, *change.split())
    assert message in said


def test_adapter_without_a_rank_is_refused(refuse: Refuse, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    said = refuse("train", "configs/tiny_svs.yaml", f"model.path={TINY}", "policy.lora.adapter=models/tiny")
    assert "rank is 0" in said


def test_experts_have_no_adapters(refuse: Refuse, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    said = refuse("sft", "configs/tiny_moe_sft.yaml", "export=null", *LORA)
    assert "experts have no adapters, leave out gate_proj, up_proj, down_proj" in said


def test_run_without_adapters_has_none_to_export(fastsvs: Callable, tmp_path: Path) -> None:
    words = (*SFT, "policy.lora.rank=0", "run.steps=1", f"run.dir={tmp_path / 'run'}")
    assert fastsvs(*words).returncode == 0
    result = fastsvs("export", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--adapter")
    assert result.returncode == 2
    assert "has no adapter" in result.stderr
