"""Checkpoints of adapters: bit for bit between layouts, and of no other policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from checkpoint_cases import OPTIMIZER, assert_same, update, weights
from megatron.core import parallel_state as mpu
from policy_cases import save_model
from policy_ranks import run_ranks
from torch import Tensor

from fastsvs.config import LoraConfig, ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy import Degrees, Policy, checkpoint
from fastsvs.policy.learned import adapter_shapes
from fastsvs.policy.manifest import read_manifest
from fastsvs.policy.pieces import MASTER, MOMENTS, PieceIndex, SavedTensors

LORA = LoraConfig(rank=3, alpha=6.0)
LAYOUT = {"tensor_parallel": 2, "pipeline_parallel": 2}


def build(model: Path, lora: LoraConfig = LORA, updates: int = 20, **settings: Any) -> Policy:
    config = PolicyConfig(recompute="none", tokens_per_micro_batch=256, optimizer=OPTIMIZER, lora=lora, **settings)
    return Policy(ModelConfig(path=str(model)), config, seed=0, total_updates=updates, max_sequence_tokens=128)


def contents(path: Path, policy: Policy) -> dict[str, Tensor]:
    """Every master and moment of a checkpoint, whole, under PEFT's names."""
    manifest = read_manifest(path)
    index = PieceIndex([path / name for name in manifest.files])
    return {
        f"{quantity} of {name}": SavedTensors(index, quantity, policy.architecture, manifest.degrees).read(
            name, None, 0, 0
        )
        for quantity in (MASTER, *MOMENTS)
        for name in adapter_shapes(policy.architecture)
    }


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mpu.destroy_model_parallel()
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


def resume_elsewhere(model: str, source: str, folder: str) -> None:
    """Save on several ranks what was loaded, then where two more updates lead, alone and after another resumption."""
    policy, root = build(Path(model), **LAYOUT), Path(folder)
    checkpoint.load(policy, Path(source))
    checkpoint.save(policy, root / "loaded", 2, {}, keep=1)
    for name in ("alone", "resumed"):
        if name == "resumed":
            checkpoint.load(policy, checkpoint.latest(root / "loaded"))
        for seed in (2, 3):
            update(policy, seed)
        checkpoint.save(policy, root / name, 4, {}, keep=1)


def test_layouts_exchange_adapters_bit_for_bit(model: Path, tmp_path: Path) -> None:
    alone = build(model)
    for seed in range(2):
        update(alone, seed)
    checkpoint.save(alone, tmp_path / "here", 2, {}, keep=1)
    run_ranks(resume_elsewhere, 4, tmp_path, str(model), str(checkpoint.latest(tmp_path / "here")), str(tmp_path))

    def read(folder: str) -> dict[str, Tensor]:
        return contents(checkpoint.latest(tmp_path / folder), alone)

    assert_same(read("here"), read("loaded"))
    assert_same(read("alone"), read("resumed"))
    assert any(value.any() for name, value in read("here").items() if name.endswith("lora_B.weight"))
    checkpoint.load(alone, checkpoint.latest(tmp_path / "alone"))
    checkpoint.save(alone, tmp_path / "back", 4, {}, keep=1)
    assert_same(read("back"), read("alone"))

    frozen = build(model, updates=0)
    checkpoint.load(frozen, checkpoint.latest(tmp_path / "back"))
    assert_same(weights(frozen), weights(alone))


def test_its_size_is_known_beforehand(model: Path, tmp_path: Path) -> None:
    policy = build(model)
    update(policy, 0)
    checkpoint.save(policy, tmp_path, 1, {}, keep=1)
    [file] = checkpoint.latest(tmp_path).glob("*.safetensors")
    values = checkpoint.state_bytes(policy.architecture, Degrees())
    assert values == 3 * 4 * sum(rows * columns for rows, columns in adapter_shapes(policy.architecture).values())
    assert 0 < file.stat().st_size - values < 200 * 3 * 2 * 7 * 4, "headers"


@pytest.mark.parametrize(
    ("saved", "loaded"),
    [
        (LORA, LORA.model_copy(update={"rank": 4})),
        (LORA, LORA.model_copy(update={"alpha": 3.0})),
        (LORA, LoraConfig(rank=3, alpha=6.0, targets=("q_proj", "k_proj"))),
        (LORA, LoraConfig()),
        (LoraConfig(), LORA),
    ],
    ids=["rank", "alpha", "targets", "without", "with"],
)
def test_other_adapters_are_refused(model: Path, tmp_path: Path, saved: LoraConfig, loaded: LoraConfig) -> None:
    checkpoint.save(build(model, saved), tmp_path, 1, {}, keep=1)
    policy = build(model, loaded)
    before = weights(policy)
    for attempt in (
        lambda: checkpoint.load(policy, checkpoint.latest(tmp_path)),
        lambda: checkpoint.check(checkpoint.latest(tmp_path), policy.architecture),
    ):
        with pytest.raises(UserError, match=r"of other adapters than policy\.lora"):
            attempt()
    assert_same(weights(policy), before)


def test_targets_in_another_order_are_the_same(model: Path, tmp_path: Path) -> None:
    checkpoint.save(build(model, LoraConfig(rank=2, targets=("v_proj", "q_proj"))), tmp_path, 1, {}, keep=1)
    policy = build(model, LoraConfig(rank=2, targets=("q_proj", "v_proj", "q_proj")))
    checkpoint.load(policy, checkpoint.latest(tmp_path))
    assert checkpoint.verify(checkpoint.latest(tmp_path)) > 0
