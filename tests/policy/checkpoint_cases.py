"""A small policy for the tests of checkpoints, and what two of them share."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from policy_cases import make_batch
from torch import Tensor

from fastsvs.algorithms import policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig, OptimizerConfig, PolicyConfig
from fastsvs.policy import Policy

OPTIMIZER = OptimizerConfig(learning_rate=1e-3, schedule="cosine", warmup_steps=3)


def build(
    model: Path,
    dtype: str = "bf16",
    tensor: int = 1,
    pipeline: int = 1,
    updates: int = 20,
    offload: str = "none",
    expert: int = 1,
    context: int = 1,
) -> Policy:
    config = PolicyConfig(
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        expert_parallel=expert,
        context_parallel=context,
        dtype=dtype,
        tokens_per_micro_batch=256,
        recompute="none",
        offload=offload,
        optimizer=OPTIMIZER,
    )
    return Policy(ModelConfig(path=str(model)), config, seed=0, total_updates=updates, max_sequence_tokens=128)


def update(policy: Policy, seed: int) -> dict[str, float]:
    algorithm = AlgorithmConfig()
    weights = torch.full((12,), 1 / 200)
    return policy.update(make_batch(seed=seed), policy_loss(algorithm), algorithm, weights, 1.0)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.hf_weights()}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
