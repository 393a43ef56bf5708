"""Checkpoints of adapters: bit for bit between layouts, and of no other policy."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoint_cases import OPTIMIZER, assert_layouts_exchange, assert_same, contents, update, weights
from megatron.core import parallel_state as mpu
from policy_cases import save_model

from fastsvs.config import LoraConfig, ModelConfig, PolicyConfig
from fastsvs.errors import UserError
from fastsvs.policy import Degrees, Policy, checkpoint
from fastsvs.policy.learned import adapter_shapes

LORA = LoraConfig(rank=3, alpha=6.0)
LAYOUT = {"tensor_parallel": 2, "pipeline_parallel": 2}


def build(model: Path, lora: LoraConfig = LORA, updates: int = 20, **settings: Any) -> Policy:
    config = PolicyConfig(recompute="none", tokens_per_micro_batch=256, optimizer=OPTIMIZER, lora=lora, **settings)
    return Policy(ModelConfig(path=str(model)), config, seed=0, total_updates=updates, max_sequence_tokens=128)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mpu.destroy_model_parallel()
    return save_model("qwen2-tied", tmp_path_factory.mktemp("model"))


def test_layouts_exchange_adapters_bit_for_bit(model: Path, tmp_path: Path) -> None:
    alone = build(model)
    assert_layouts_exchange(alone, partial(build, model, **LAYOUT), 4, tmp_path)
    back = checkpoint.latest(tmp_path / "back")
    learned = contents(back, alone)
    assert {name.split(" of ")[1] for name in learned} == set(adapter_shapes(alone.architecture))
    assert any(value.any() for name, value in learned.items() if name.endswith("lora_B.weight"))

    frozen = build(model, updates=0)
    checkpoint.load(frozen, back)
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
