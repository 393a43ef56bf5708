"""`rollout.deterministic`: the engine's log-probs and the policy's are the same bits, whatever the company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from policy_cases import GSPO, PPO, make_batch, save_model
from policy_ranks import run_ranks

from fastsvs.algorithms import Batch, policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.invariant import check_machine
from fastsvs.policy import Policy
from fastsvs.rollout import LocalEngine, Request, Rollout, SamplingParams, drain

LONGEST = 128
PROMPTS = [tuple(range(5, 12)), tuple(range(30, 75)), (7, 8), (9,)]


def build(folder: Path, deterministic: bool = True, **settings: object) -> Policy:
    config = PolicyConfig(dtype="fp32", tokens_per_micro_batch=512, **settings)
    model = ModelConfig(path=str(folder))
    return Policy(model, config, seed=0, total_updates=4, max_sequence_tokens=LONGEST, deterministic=deterministic)


def rollouts(policy: Policy, requests: Sequence[Request], max_sequences: int) -> dict[str, list[Rollout]]:
    engine = LocalEngine(
        policy.hf_config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=[3],
        max_sequences=max_sequences,
        deterministic=True,
    )
    engine.load_weights(((name, tensor.detach()) for name, tensor in policy.hf_weights()), version=0)
    engine.submit(requests)
    return dict(drain(engine))


def requests(temperature: float) -> list[Request]:
    limits = SamplingParams(temperature=temperature, max_tokens=40)
    return [Request(str(i), prompt, 4, limits, seed=i) for i, prompt in enumerate(PROMPTS)]


def batch_of(groups: dict[str, list[Rollout]]) -> Batch:
    found = [(PROMPTS[int(key)], rollout) for key, group in sorted(groups.items()) for rollout in group]
    logprobs = torch.tensor([value for _, rollout in found for value in rollout.logprobs])
    return replace(
        make_batch(len(found)),
        prompt_ids=[np.array(prompt) for prompt, _ in found],
        response_ids=[np.array(rollout.response_ids) for _, rollout in found],
        kinds=["original"] * len(found),
        advantages=torch.ones_like(logprobs),
        rollout_logprobs=logprobs,
        old_logprobs=None,
        reference_logprobs=torch.full_like(logprobs, -5.7),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("qwen3-untied", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return build(folder)


@pytest.fixture(scope="module")
def batch(policy: Policy) -> Batch:
    return batch_of(rollouts(policy, requests(1.0), max_sequences=5))


@pytest.mark.parametrize("family", ["qwen2-tied", "qwen2-untied", "qwen3-tied", "llama3-untied", "llama3-tied-mha"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_policy_and_engine_compute_the_same_bits(family: str, temperature: float, tmp_path: Path) -> None:
    policy = build(save_model(family, tmp_path))
    groups = rollouts(policy, requests(temperature), max_sequences=5)  # slots change hands
    batch = batch_of(groups)
    assert torch.equal(policy.log_probs(batch, temperature), batch.rollout_logprobs)


def test_other_sequences_do_not_change_a_bit(policy: Policy) -> None:
    together = rollouts(policy, requests(1.0), max_sequences=16)
    for request in requests(1.0):
        for number in range(request.samples):
            one = replace(request, samples=1, first_sample=number)
            [alone] = rollouts(policy, [one], max_sequences=1)[request.key]
            assert alone == together[request.key][number]


def test_cut_off_and_greedy_sequences_beside_others_change_nothing(policy: Policy, batch: Batch) -> None:
    limits = [SamplingParams(temperature=0.0, max_tokens=30), SamplingParams(top_k=3, top_p=0.8, max_tokens=9)]
    others = [Request(f"other {i}", PROMPTS[i], 3, limit, seed=i) for i, limit in enumerate(limits)]
    found = rollouts(policy, [*others, *requests(1.0)], max_sequences=9)
    greedy, cut = (found.pop(request.key) for request in others)
    assert {value for rollout in greedy for value in rollout.logprobs} == {0.0}
    assert all(value <= 0 for rollout in cut for value in rollout.logprobs)
    assert torch.equal(batch_of(found).rollout_logprobs, batch.rollout_logprobs)


@pytest.mark.parametrize(
    "settings", [{"shared_prefix": False}, {"recompute": "none"}, {"recompute": "all_but_attention"}], ids=str
)
def test_neither_packing_nor_recomputation_changes_a_bit(
    settings: dict[str, object], folder: Path, batch: Batch
) -> None:
    other = build(folder, **settings)
    assert torch.equal(other.log_probs(batch, 1.0), batch.rollout_logprobs)
    for size in (1, 7):
        part = batch.select(list(range(size)))
        assert torch.equal(other.log_probs(part, 1.0), part.rollout_logprobs)


@pytest.mark.parametrize("config", [PPO, GSPO], ids=["one pass", "by way of log-probs"])
def test_an_update_sees_the_engines_log_probs(config: AlgorithmConfig, folder: Path, batch: Batch) -> None:
    policy = build(folder)
    metrics = policy.update(batch, policy_loss(config), config, torch.full((len(batch),), 1e-3), temperature=1.0)
    assert metrics["rollout_mismatch"] == metrics["rollout_mismatch_max"] == metrics["rollout_kl"] == 0
    assert metrics["ratio"] == 1


def test_gradients_are_the_usual_ones(folder: Path, batch: Batch) -> None:
    norms = []
    for deterministic in (True, False):
        policy = build(folder, deterministic)
        weights = torch.full((len(batch),), 1e-3)
        norms.append(policy.update(batch, policy_loss(GSPO), GSPO, weights, temperature=1.0)["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert norms[0] > 0


def test_several_threads_compute_the_same_bits(policy: Policy, batch: Batch) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = batch_of(rollouts(policy, requests(1.0), max_sequences=7))
        assert torch.equal(found.rollout_logprobs, batch.rollout_logprobs)
        assert torch.equal(policy.log_probs(batch, 1.0), batch.rollout_logprobs)
    finally:
        torch.set_num_threads(threads)


def test_other_arithmetic_would_be_noticed(folder: Path, batch: Batch) -> None:
    usual = build(folder, deterministic=False)
    assert not torch.equal(usual.log_probs(batch, 1.0), batch.rollout_logprobs)


def test_this_machine_has_what_the_mode_needs(policy: Policy) -> None:
    check_machine(policy.architecture)


def test_a_machine_whose_products_depend_on_company_is_refused(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight.T + torch.arange(len(x)).unsqueeze(1) * 1e-3

    monkeypatch.setattr("fastsvs.invariant.product", uneven)
    with pytest.raises(UserError, match=r"rollout\.deterministic: on this machine"):
        check_machine(policy.architecture)


def with_shared_rows(folder: str, batch: Batch) -> torch.Tensor:
    return build(Path(folder), context_parallel=2).log_probs(batch, 1.0)


def test_ranks_that_share_out_a_row_give_the_same_bits(folder: Path, batch: Batch, tmp_path: Path) -> None:
    for logprobs in run_ranks(with_shared_rows, 2, tmp_path, str(folder), batch):
        assert torch.equal(logprobs, batch.rollout_logprobs)
