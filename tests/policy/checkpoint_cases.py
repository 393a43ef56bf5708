"""A small policy for the tests of checkpoints, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from policy_cases import make_batch
from policy_ranks import run_ranks
from torch import Tensor

from fastsvs.algorithms import policy_loss
from fastsvs.config import AlgorithmConfig, ModelConfig, OptimizerConfig, PolicyConfig
from fastsvs.policy import Policy, checkpoint
from fastsvs.policy.learned import learned_shapes
from fastsvs.policy.manifest import read_manifest
from fastsvs.policy.pieces import MASTER, MOMENTS, PieceIndex, SavedTensors

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
    expert_tensor: int = 1,
) -> Policy:
    config = PolicyConfig(
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        expert_parallel=expert,
        expert_tensor_parallel=expert_tensor,
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


def assert_layouts_exchange(alone: Policy, elsewhere: Callable[[], Policy], ranks: int, root: Path) -> None:
    """Assert that a policy of one process and that which `elsewhere` makes on several ranks exchange checkpoints bit
    for bit, and that the ranks resume bit for bit, too."""
    for seed in range(2):
        update(alone, seed)
    checkpoint.save(alone, root / "here", 2, {}, keep=1)
    run_ranks(_resume, ranks, root, elsewhere, checkpoint.latest(root / "here"), root)

    def read(folder: str) -> dict[str, Tensor]:
        return contents(checkpoint.latest(root / folder), alone)

    assert_same(read("here"), read("loaded"))
    assert_same(read("alone"), read("resumed"))
    checkpoint.load(alone, checkpoint.latest(root / "alone"))
    checkpoint.save(alone, root / "back", 4, {}, keep=1)
    assert_same(read("back"), read("alone"))


def _resume(make: Callable[[], Policy], source: Path, root: Path) -> None:
    """Save what was loaded, then where two more updates lead, alone and after another resumption."""
    policy = make()
    checkpoint.load(policy, source)
    checkpoint.save(policy, root / "loaded", 2, {}, keep=1)
    for name in ("alone", "resumed"):
        if name == "resumed":
            checkpoint.load(policy, checkpoint.latest(root / "loaded"))
        for seed in (2, 3):
            update(policy, seed)
        checkpoint.save(policy, root / name, 4, {}, keep=1)


def contents(path: Path, policy: Policy) -> dict[str, Tensor]:
    """Every master and moment of a checkpoint, whole, under the names of Hugging Face or PEFT."""
    manifest = read_manifest(path)
    index = PieceIndex([path / name for name in manifest.files])
    return {
        f"{quantity} of {name}": SavedTensors(index, quantity, policy.architecture, manifest.degrees).read(
            name, None, 0, 0
        )
        for quantity in (MASTER, *MOMENTS)
        for name in learned_shapes(policy.architecture)
    }
