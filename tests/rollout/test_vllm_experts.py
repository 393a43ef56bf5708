"""The experts that a real vLLM server says (CPU, kernels in Triton's interpreter): against transformers, the local
engine, and a policy that replays them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1] / "policy"))
from megatron.core import parallel_state as mpu
from policy_cases import make_batch
from server_routes import ask
from standalone_servers import EOS, spec_of
from stored_names import stored

from fastsvs.algorithms import Batch
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.policy import Policy
from fastsvs.rollout import LocalEngine, Request, Rollout, SamplingParams, VllmEngine
from fastsvs.sync import Endpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(not (find_spec("vllm") and find_spec("triton")), reason="needs vLLM and Triton"),
]
SHAPE = Path(__file__).parents[2] / "models" / "tiny_moe"
BACKEND = Path(__file__).parent / "triton_on_cpu"
BLOCK = 32
"""Tokens of a block of the server's cache."""
PROMPTS = [tuple(range(5, 12)), tuple(range(100, 100 + 3 * BLOCK + 4)), (7, 8)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("model")
    shape = AutoConfig.from_pretrained(SHAPE, mlp_only_layers=[1])
    AutoModelForCausalLM.from_config(shape, dtype=torch.float32).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmEngine]:
    arguments = {"block-size": BLOCK, "disable-log-stats": False}  # a test reads vLLM's statistics
    spec = spec_of(folder, tmp_path_factory.mktemp("servers"), arguments, max_sequences=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setenv("PYTHONPATH", str(BACKEND), prepend=os.pathsep)
        made = VllmEngine.build(replace(spec, tells_experts=True, max_sequence_tokens=256))
        try:
            publish(made, 1)
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def endpoint(engine: VllmEngine) -> Endpoint:
    [found] = engine.endpoints(60)
    engine.weights_loaded([found.name], 1)
    return found


def publish(engine: VllmEngine, version: int) -> None:
    """Only the label, where a trainer would send weights: the server drops its cache, whatever it is at work on."""
    [endpoint] = engine.endpoints(240)
    ask(endpoint, "POST", "/pause?mode=keep&clear_cache=true")
    ask(endpoint, "POST", "/update_weight_version", {"new_version": str(version)})
    ask(endpoint, "POST", "/resume")
    engine.weights_loaded([endpoint.name], version)


def requests(samples: int, seed: int = 0, **sampling: float) -> list[Request]:
    params = SamplingParams(**{"max_tokens": 12, **sampling})  # type: ignore[arg-type]
    return [Request(str(i), prompt, samples, params, seed=seed + 100 * i) for i, prompt in enumerate(PROMPTS)]


def answered(engine: VllmEngine | LocalEngine, asked: Sequence[Request]) -> list[tuple[tuple[int, ...], Rollout]]:
    """Prompt and response of each sample."""
    engine.submit(asked)
    return finished(engine, asked)


def finished(engine: VllmEngine | LocalEngine, asked: Sequence[Request]) -> list[tuple[tuple[int, ...], Rollout]]:
    groups: dict[str, list[Rollout]] = {}
    deadline = time.monotonic() + 240
    while engine.pending():
        assert not engine.stale(), "the server has failed and was started again"
        assert time.monotonic() < deadline
        groups |= dict(engine.poll(1.0))
    return [(request.prompt_ids, rollout) for request in asked for rollout in groups[request.key]]


def chosen(model: PreTrainedModel, prompt: Sequence[int], rollout: Rollout) -> np.ndarray:
    """The experts that transformers' routers choose, in order of their numbers."""
    with torch.no_grad():
        found = model(torch.tensor([[*prompt, *rollout.response_ids[:-1]]]), output_router_logits=True).router_logits
    return np.sort(torch.stack([logits.topk(2, dim=-1).indices for logits in found], dim=1).numpy(), axis=2)


def in_order(rollout: Rollout) -> np.ndarray:
    assert rollout.experts is not None
    assert rollout.experts.dtype == np.int16
    return np.sort(rollout.experts, axis=2)


def test_experts_are_those_of_transformers(engine: VllmEngine, model: PreTrainedModel) -> None:
    samples = answered(engine, requests(2))
    assert len(samples) == 6
    for prompt, rollout in samples:
        assert (in_order(rollout) == chosen(model, prompt, rollout)).all()


def test_experts_are_those_of_the_local_engine(engine: VllmEngine, model: PreTrainedModel) -> None:
    local = LocalEngine(
        model.config,
        dtype=torch.float32,
        device=torch.device("cpu"),
        eos_token_ids=[EOS],
        max_sequences=4,
        tells_experts=True,
    )
    weights = stored(dict(model.named_parameters()), model.config.model_type)
    local.load_weights([(name, tensor.detach()) for name, tensor in weights.items()], 1)
    greedy = requests(1, temperature=0.0)
    for (_, theirs), (_, ours) in zip(answered(engine, greedy), answered(local, greedy), strict=True):
        assert theirs.response_ids == ours.response_ids
        assert (in_order(theirs) == in_order(ours)).all()


def counted(endpoint: Endpoint, name: str) -> float:
    """Return the number that the server has counted under this name."""
    lines = ask(endpoint, "GET", "/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def test_prompt_tokens_from_the_prefix_cache_have_their_experts(
    engine: VllmEngine, endpoint: Endpoint, model: PreTrainedModel
) -> None:
    publish(engine, 1)
    first = answered(engine, requests(1)[1:2])
    before = counted(endpoint, "prefix_cache_hits_total")
    again = answered(engine, requests(2, seed=7)[1:2])
    assert counted(endpoint, "prefix_cache_hits_total") - before == 2 * 3 * BLOCK
    for prompt, rollout in [*first, *again]:
        assert (in_order(rollout) == chosen(model, prompt, rollout)).all()


def test_a_response_that_goes_on_under_new_weights_has_the_experts_of_both(
    engine: VllmEngine, endpoint: Endpoint, model: PreTrainedModel
) -> None:
    publish(engine, 1)
    before = counted(endpoint, "generation_tokens_total")
    asked = requests(2, max_tokens=40)
    engine.submit(asked)
    deadline = time.monotonic() + 60
    while counted(endpoint, "generation_tokens_total") < before + 30:
        assert time.monotonic() < deadline
    publish(engine, 2)
    samples = finished(engine, asked)
    assert any(rollout.mixed_versions for _, rollout in samples)
    for prompt, rollout in samples:
        assert (in_order(rollout) == chosen(model, prompt, rollout)).all()
    publish(engine, 1)


def perturbed(folder: Path, noise: float) -> Policy:
    """A policy whose routers are not those of the server."""
    config = PolicyConfig(dtype="fp32", router_replay="rollout")
    policy = Policy(ModelConfig(path=str(folder)), config, seed=0, total_updates=4, max_sequence_tokens=256)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.stage.named_parameters():
        if name.endswith("router.weight"):
            parameter.data += noise * torch.randn(parameter.shape, generator=generator)
    return policy


def as_batch(samples: Sequence[tuple[tuple[int, ...], Rollout]]) -> Batch:
    logprobs = torch.tensor([value for _, rollout in samples for value in rollout.logprobs])
    return replace(
        make_batch(),
        prompt_ids=[np.array(prompt) for prompt, _ in samples],
        response_ids=[np.array(rollout.response_ids) for _, rollout in samples],
        kinds=["original"] * len(samples),
        rollout_logprobs=logprobs,
        experts=[rollout.experts for _, rollout in samples],  # type: ignore[misc]
    )


def test_replay_agrees_with_the_server_where_the_own_router_does_not(engine: VllmEngine, folder: Path) -> None:
    batch = as_batch(answered(engine, requests(2, max_tokens=30)))
    without = replace(batch, experts=None)

    def largest_difference(policy: Policy, batch: Batch) -> float:
        return float((policy.log_probs(batch, 1.0) - batch.rollout_logprobs).abs().max())

    policy = perturbed(folder, noise=0.0)
    assert largest_difference(policy, batch) < 1e-4
    mpu.destroy_model_parallel()
    policy = perturbed(folder, noise=1e-2)
    assert largest_difference(policy, without) > 0.2, "some token got other experts"
    assert largest_difference(policy, batch) < 0.5 * largest_difference(policy, without)
    mpu.destroy_model_parallel()
