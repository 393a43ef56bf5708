"""Rollouts of the local engine, learned from with the experts that computed them and without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import PPO, hf_gradients, make_batch, relative_error, save_model
from policy_ranks import run_ranks

from fastsvs.algorithms import Batch, policy_loss
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.policy import Policy
from fastsvs.rollout import LocalEngine, Request, Rollout, SamplingParams, drain

REPLAY: dict[str, Any] = {
    "dtype": "fp32",
    "recompute": "full",
    "tokens_per_micro_batch": 400,
    "router_replay": "rollout",
}
WEIGHTS = torch.full((12,), 1e-3)


def build(folder: Path | str, **settings: Any) -> Policy:
    config = PolicyConfig(**REPLAY | settings)
    return Policy(ModelConfig(path=str(folder)), config, seed=0, total_updates=4, max_sequence_tokens=128)


@pytest.fixture(scope="module", params=["qwen3-moe", "qwen3-moe-sparse"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return build(folder)


def sampled(policy: Policy, noise: float) -> Batch:
    """Three prompts with four responses each, by an engine whose routers are perturbed."""
    engine = LocalEngine(
        policy.hf_config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=[3],
        max_sequences=5,  # slots change hands
        tells_experts=True,
    )
    generator = torch.Generator().manual_seed(1)

    def perturbed(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + noise * torch.randn(tensor.shape, generator=generator) * name.endswith("mlp.gate.weight")

    engine.load_weights([(name, perturbed(name, tensor.detach())) for name, tensor in policy.hf_weights()], version=0)
    prompts = [tuple(range(5, 12)), tuple(range(30, 50)), (7, 8)]
    limits = SamplingParams(max_tokens=40)
    engine.submit([Request(str(i), prompt, 4, limits, seed=i) for i, prompt in enumerate(prompts)])
    found: list[tuple[tuple[int, ...], Rollout]] = []
    for key, rollouts in sorted(dict(drain(engine)).items()):
        found += [(prompts[int(key)], rollout) for rollout in rollouts]
    logprobs = torch.tensor([value for _, rollout in found for value in rollout.logprobs])
    return replace(
        make_batch(),
        prompt_ids=[np.array(prompt) for prompt, _ in found],
        response_ids=[np.array(rollout.response_ids) for _, rollout in found],
        kinds=["original"] * len(found),
        advantages=torch.randn(len(logprobs), generator=generator),
        rollout_logprobs=logprobs,
        old_logprobs=None,
        reference_logprobs=torch.full_like(logprobs, -5.7),
        experts=[rollout.experts for _, rollout in found],  # type: ignore[misc]
    )


def largest_difference(policy: Policy, batch: Batch) -> float:
    return float((policy.log_probs(batch, 1.0) - batch.rollout_logprobs).abs().max())


def test_the_engine_says_the_experts_of_every_token_that_it_read(policy: Policy) -> None:
    batch = sampled(policy, noise=0.0)
    assert batch.experts is not None
    for prompt, response, experts in zip(batch.prompt_ids, batch.response_ids, batch.experts, strict=True):
        assert experts.dtype == np.int16
        assert experts.shape == (len(prompt) + len(response) - 1, 2, 2)
        assert experts.nbytes == 8 * len(experts), "bytes a token: 2 x layers with experts x experts of a token"
        assert ((experts >= 0) & (experts < 4)).all()
        assert (experts[..., 0] != experts[..., 1]).all()


def test_replay_agrees_where_the_own_router_does_not(policy: Policy) -> None:
    batch = sampled(policy, noise=2e-2)
    without = replace(batch, experts=None)
    assert largest_difference(policy, without) > 0.2, "some token got other experts"
    assert largest_difference(policy, batch) < 0.5 * largest_difference(policy, without)
    exact = sampled(policy, noise=0.0)
    assert largest_difference(policy, exact) < 1e-5


def test_replay_of_the_own_choice_changes_nothing(policy: Policy) -> None:
    batch = sampled(policy, noise=0.0)
    gradients = []
    for experts in (batch.experts, None):
        policy.accumulate_gradients(replace(batch, experts=experts), policy_loss(PPO), PPO, WEIGHTS, 1.0)
        gradients.append(hf_gradients(policy))
    for name, gradient in gradients[0].items():
        assert relative_error(gradient, gradients[1][name]) < 1e-5, name


def other_experts(batch: Batch) -> Batch:
    """The batch with experts that no router chose, so that nothing but the replay can explain them. The samples of a
    prompt have its experts in common, as they have in an engine."""
    generator = np.random.default_rng(0)

    def choice(tokens: int) -> np.ndarray:
        first = generator.integers(0, 4, (tokens, 2, 1))
        return np.concatenate([first, (first + generator.integers(1, 4, (tokens, 2, 1))) % 4], axis=2).astype(np.int16)

    prompts = {prompt.tobytes(): choice(len(prompt)) for prompt in batch.prompt_ids}
    found = [
        np.concatenate([prompts[prompt.tobytes()], choice(len(response) - 1)])
        for prompt, response in zip(batch.prompt_ids, batch.response_ids, strict=True)
    ]
    return replace(batch, experts=found)


def outcome(folder: str, batch: Batch, layout: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    policy = build(folder, **layout)
    logprobs = policy.log_probs(batch, 1.0)
    policy.accumulate_gradients(batch, policy_loss(PPO), PPO, WEIGHTS, 1.0)
    gradients = hf_gradients(policy)
    mpu.destroy_model_parallel()
    return logprobs, gradients


def in_turn(folder: str, batch: Batch, layouts: list[dict[str, Any]]) -> list[Any]:
    return [outcome(folder, batch, layout) for layout in layouts]


def test_layouts_replay_alike_and_the_router_learns(folder: Path, policy: Policy, tmp_path: Path) -> None:
    batch = other_experts(sampled(policy, noise=0.0))
    assert largest_difference(policy, batch) > 0.2
    whole = build(folder, shared_prefix=False, tokens_per_micro_batch=4096, recompute="none")
    expected = whole.log_probs(batch, 1.0)
    whole.accumulate_gradients(batch, policy_loss(PPO), PPO, WEIGHTS, 1.0)
    gradients = hf_gradients(whole)
    routers = [f"model.layers.{layer}.mlp.gate.weight" for layer in whole.architecture.expert_layers]
    assert all(gradients[router].any() for router in routers)
    layouts = [{"expert_parallel": 2}, {"tensor_parallel": 2, "expert_parallel": 2}, {"pipeline_parallel": 2}]
    layouts += [{"context_parallel": 2}, {"expert_tensor_parallel": 2}]
    layouts += [{"tensor_parallel": 2, "expert_tensor_parallel": 2}]
    for logprobs, found in run_ranks(in_turn, 2, tmp_path, str(folder), batch, layouts)[0]:
        assert (logprobs - expected).abs().max() < 1e-5
        for name, gradient in gradients.items():
            assert relative_error(found[name], gradient) < 1e-4, name


def test_without_the_key_experts_are_left_to_the_router(folder: Path, policy: Policy) -> None:
    batch = other_experts(sampled(policy, noise=0.0))
    own = build(folder, router_replay="none").log_probs(batch, 1.0)
    assert (own - batch.rollout_logprobs).abs().max() < 1e-5
