"""One process: log-probs, entropy, gradients, weights and exports against transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from policy_cases import (
    CONFIGS,
    GSPO,
    PPO,
    hf_gradients,
    make_batch,
    reference_gradients,
    reference_statistics,
    relative_error,
    save_model,
)
from stored_names import stored
from transformers import AutoModelForCausalLM

from fastsvs.algorithms import policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.policy import Policy

FP32 = PolicyConfig(dtype="fp32", recompute="none", tokens_per_micro_batch=256)


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp(request.param))


def build(folder: Path, config: PolicyConfig = FP32, **changes: object) -> Policy:
    arguments = {"seed": 0, "total_updates": 4, "max_sequence_tokens": 128} | changes
    return Policy(ModelConfig(path=str(folder)), config, **arguments)  # type: ignore[arg-type]


def load_hf(folder: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    # The experts' products that transformers would take know no float64.
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, experts_implementation="eager")


def test_log_probs_match_transformers(folder: Path) -> None:
    batch = make_batch()
    with torch.no_grad():
        expected, _ = reference_statistics(load_hf(folder), batch, temperature=0.7)
    actual = build(folder).log_probs(batch, temperature=0.7)
    assert (actual - expected).abs().max() < 1e-5
    assert actual.dtype == torch.float32


def test_mean_log_probs_match_transformers(folder: Path) -> None:
    batch = make_batch()
    model = load_hf(folder, torch.float64)
    expected = []
    for prompt, response in zip(batch.prompt_ids, batch.response_ids, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, response]))
        with torch.no_grad():
            logits = model(ids[None]).logits[0, len(prompt) - 1 : -1]
        expected.append((logits / 0.7).log_softmax(-1).mean(-1))
    actual = build(folder).statistics(batch, 0.7, certainty=True).mean_logprobs
    assert (actual - torch.cat(expected)).abs().max() < 1e-4


@pytest.mark.parametrize("algorithm", [GSPO, PPO], ids=lambda algorithm: algorithm.loss)
def test_gradients_match_transformers_and_entropy_matches_float64(folder: Path, algorithm: AlgorithmConfig) -> None:
    batch, weights = make_batch(), torch.linspace(1e-3, 5e-3, 12)
    loss = policy_loss(algorithm)
    objective, expected = reference_gradients(load_hf(folder), batch, loss, algorithm, weights, temperature=0.7)
    policy = build(folder, FP32.model_copy(update={"recompute": "full"}))
    metrics = policy.accumulate_gradients(batch, loss, algorithm, weights, temperature=0.7)
    gradients = hf_gradients(policy)
    assert metrics["loss"] == pytest.approx(objective, rel=1e-5)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative_error(gradients[name], gradient) < 1e-4, name

    with torch.no_grad():
        _, entropy = reference_statistics(load_hf(folder, torch.float64), batch, temperature=0.7)
    assert metrics["entropy"] == pytest.approx(entropy.mean().item(), rel=1e-6)
    of_kind = torch.tensor([kind == "variant" for kind in batch.kinds]).repeat_interleave(batch.response_lengths)
    assert metrics["entropy/variant"] == pytest.approx(entropy[of_kind].mean().item(), rel=1e-6)


def test_weights_go_in_and_out_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    policy, original = build(folder), load_hf(folder)
    original = stored(original.state_dict(), original.config.model_type)
    weights = dict(policy.hf_weights())
    tied = {"lm_head.weight"} if policy.architecture.tied else set()
    assert weights.keys() == original.keys() - tied
    assert all(torch.equal(weights[name], original[name]) for name in weights)
    policy.export(tmp_path / "exported")
    exported = load_hf(tmp_path / "exported", dtype="auto")
    assert exported.dtype == torch.float32
    tensors = stored(exported.state_dict(), exported.config.model_type)
    assert tensors.keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in tensors.items())
