"""Planned memory against what Megatron allocates, autograd saves, and checkpoints and weights take, on real ranks."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from megatron.core import parallel_state as mpu
from policy_cases import CONFIGS, PPO, make_batch, save_model
from policy_ranks import run_ranks
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, PretrainedConfig

from fastsvs import distributed
from fastsvs.algorithms import Batch, policy_loss
from fastsvs.architecture import trained_architecture
from fastsvs.config import ModelConfig, PolicyConfig
from fastsvs.delta_rule import CHUNK
from fastsvs.plan import Row, activations, checkpoint_bytes, layout_of, stage_buffers, sync_bytes
from fastsvs.policy import Policy, checkpoint
from fastsvs.policy.parallel import megatron_device
from fastsvs.policy.step import run_pipeline
from fastsvs.policy.training_state import pieces

LAYOUTS: dict[str, dict[str, Any]] = {
    "dp4": {},
    "tp2": {"tensor_parallel": 2},
    "tp2-no-sp": {"tensor_parallel": 2, "sequence_parallel": False},
    "pp2": {"pipeline_parallel": 2},
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "pp4": {"pipeline_parallel": 4},
    "cp2": {"context_parallel": 2},
    "cp2-tp2": {"context_parallel": 2, "tensor_parallel": 2},
    "tp2-lora": {"tensor_parallel": 2, "lora": {"rank": 4}},
    "pp2-lora": {"pipeline_parallel": 2, "lora": {"rank": 4, "targets": ("q_proj", "v_proj", "down_proj")}},
    "cp2-lora": {"context_parallel": 2, "lora": {"rank": 4, "targets": ("q_proj", "v_proj", "down_proj")}},
}
MIXTURE_LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2-ep2": {"tensor_parallel": 2, "expert_parallel": 2},
    "tp2-etp2": {"tensor_parallel": 2, "expert_tensor_parallel": 2},
    "ep2-etp2": {"expert_parallel": 2, "expert_tensor_parallel": 2},
}
MODELS = ("qwen2-tied", "qwen3-untied", "llama3-tied-mha")
CASES = [("qwen2-tied", layout, "bf16") for layout in LAYOUTS] + [
    ("qwen2-tied", "pp2", "fp32"),
    ("qwen3-untied", "tp2-pp2", "fp32"),
    ("llama3-tied-mha", "dp4", "fp32"),
]
CASES += [("qwen2-moe-shared", layout, "bf16") for layout in MIXTURE_LAYOUTS]


def config_of(dtype: str, layout: dict[str, Any], **changes: Any) -> PolicyConfig:
    shape = {"recompute": "none", "tokens_per_micro_batch": 2000, "shared_prefix": False} | layout | changes
    return PolicyConfig(dtype=dtype, **shape)


def build(model: str, config: PolicyConfig) -> Policy:
    return Policy(ModelConfig(path=model), config, seed=0, total_updates=2, max_sequence_tokens=128)


class Saved:
    """Bytes of the storages that autograd saves, those of weights and gradients left out."""

    def __init__(self, policy: Policy) -> None:
        self._known = {parameter.untyped_storage()._cdata for parameter in policy.stage.parameters()}
        self._storages: dict[int, torch.UntypedStorage] = {}

    def __enter__(self) -> Saved:
        self._hooks = saved_tensors_hooks(self.count, lambda saved: saved)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())

    def count(self, saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage._cdata not in self._known:
            self._storages[storage._cdata] = storage
        return saved


def saved_by_forward(policy: Policy, batch: Batch | None = None) -> tuple[int, int]:
    """Bytes that the forward pass of one row keeps on this stage without the head, and the row's tokens."""
    batch = batch or make_batch()
    row = next(policy._plan(batch).rows)
    counted: list[int] = []

    def head(model: Any, row: Any, hidden: Tensor) -> tuple[Tensor, dict]:
        counted.append(saved.bytes)
        return hidden.sum(), {}

    saved = Saved(policy)
    saved.count(row.sequences.rotary)  # a layer that is computed again holds it without saving it
    with saved, megatron_device():
        run_pipeline(policy.model, iter([row]), 1, head, forward_only=False)
    return (counted or [saved.bytes])[0], len(row.tokens)


def measure(models: dict[str, str], folder: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    found = {}
    for model, layout, dtype in CASES:
        policy = build(models[model], config_of(dtype, (LAYOUTS | MIXTURE_LAYOUTS)[layout]))
        buffers = [*policy.model.buffers, *policy.model.expert_parallel_buffers]
        policy.update(make_batch(), policy_loss(PPO), PPO, torch.full((12,), 1e-3), 1.0)
        place = Path(folder) / f"{model}-{layout}-{dtype}"
        checkpoint.save(policy, place, 1, {}, keep=1)
        distributed.barrier()
        found[model, layout, dtype] = {
            "stage": mpu.get_pipeline_model_parallel_rank(),
            "parameters": sum(parameter.numel() for parameter in policy.stage.parameters()),
            "weights": sum(buffer.param_data.nbytes for buffer in buffers)
            + sum(parameter.nbytes for parameter in policy.stage.parameters() if not parameter.requires_grad),
            "gradients": sum(buffer.grad_data.nbytes for buffer in buffers),
            "stored": sum(piece.nbytes for piece in pieces(policy).values()),
            "files": sum(file.stat().st_size for file in place.rglob("*.safetensors")),
            "sent": sum(prod(t.shape) * t.element_size() for _, t in policy.hf_weights()),
        }
        mpu.destroy_model_parallel()
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str, str], dict[str, Any]]]:
    models = {name: str(save_model(name, tmp_path_factory.mktemp(name))) for name in {name for name, *_ in CASES}}
    return run_ranks(measure, 4, tmp_path_factory.mktemp("ranks"), models, str(tmp_path_factory.mktemp("checkpoints")))


@pytest.mark.parametrize(("model", "layout", "dtype"), CASES)
def test_buffers_are_megatrons(measured: list[dict], model: str, layout: str, dtype: str) -> None:
    config = config_of(dtype, (LAYOUTS | MIXTURE_LAYOUTS)[layout])
    architecture = trained_architecture(CONFIGS[model], config)
    shape = layout_of(config, 4, "cpu")
    for rank in measured:
        real = rank[model, layout, dtype]
        planned = stage_buffers(architecture, shape, real["stage"])
        assert planned.parameters == real["parameters"]
        assert planned.weights == real["weights"]
        assert planned.gradients == real["gradients"]


@pytest.mark.parametrize(("model", "layout", "dtype"), CASES)
def test_checkpoints_and_messages_take_what_is_planned(
    measured: list[dict], model: str, layout: str, dtype: str
) -> None:
    config = config_of(dtype, (LAYOUTS | MIXTURE_LAYOUTS)[layout])
    architecture = trained_architecture(CONFIGS[model], config)
    real = [rank[model, layout, dtype] for rank in measured]
    stored = sum(rank["stored"] for rank in real)
    assert checkpoint_bytes(architecture) == stored
    assert stored < real[0]["files"] < stored + 64 * 1024  # headers
    assert sync_bytes(architecture, config) == real[0]["sent"]
    layout_here = layout_of(config, 4, "cpu")
    for rank in real:
        planned = stage_buffers(architecture, layout_here, rank["stage"])
        held = planned.moments // 2 * 3  # masters and both moments
        assert rank["stored"] <= held


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "recomputed",
    [
        {"recompute": "none"},
        {"recompute": "full"},
        {"recompute": "full", "recompute_layers": 2},
        {"recompute": "full", "recompute_method": "block", "recompute_layers": 3},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_activations_are_what_autograd_saves(tmp_path: Path, model: str, dtype: str, recomputed: dict) -> None:
    config = config_of(dtype, {}, **recomputed)
    policy = build(str(save_model(model, tmp_path)), config)
    saved, tokens = saved_by_forward(policy)
    row = Row(tokens, int(make_batch().response_lengths.sum()))
    planned = activations(policy.architecture, config, layout_of(config, 1, "cpu"), 0, row)
    assert planned.kept == pytest.approx(saved, rel=0.01)


def full_chunks(sequences: int = 4) -> Batch:
    """Prompts and responses of a chunk each."""
    ids = np.random.default_rng(0).integers(5, 300, size=(2, sequences, CHUNK))
    zeros = torch.zeros(sequences * CHUNK)
    return replace(
        make_batch(),
        prompt_ids=list(ids[0]),
        response_ids=list(ids[1]),
        kinds=["original"] * sequences,
        groups=torch.arange(sequences),
        rewards=torch.zeros(sequences),
        advantages=zeros,
        rollout_logprobs=zeros,
        old_logprobs=None,
        reference_logprobs=None,
    )


def kept_of(config: PretrainedConfig, folder: Path, dtype: str, recompute: str = "none") -> tuple[float, float]:
    """Bytes that a row of full chunks keeps, planned and saved."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    settings = config_of(dtype, {}, recompute=recompute)
    policy = build(str(folder), settings)
    saved, tokens = saved_by_forward(policy, full_chunks())
    planned = activations(policy.architecture, settings, layout_of(settings, 1, "cpu"), 0, Row(tokens, 4 * CHUNK))
    return planned.kept, saved


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_activations_of_a_hybrid_are_what_autograd_saves(tmp_path: Path, dtype: str, recompute: str) -> None:
    planned, saved = kept_of(CONFIGS["qwen3.5"], tmp_path, dtype, recompute)
    assert planned == pytest.approx(saved, rel=0.02)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_a_delta_net_with_grouped_projections_saves_what_is_planned(tmp_path: Path, dtype: str) -> None:
    """Beside the same layers with attention: what experts save depends on their load."""
    mixed = CONFIGS["qwen3-next"]
    values = mixed.to_dict() | {"layer_types": ["full_attention"] * len(mixed.layer_types)}
    attention = type(mixed)(**values)
    planned, saved = kept_of(mixed, tmp_path / "mixed", dtype)
    without, really = kept_of(attention, tmp_path / "attention", dtype)
    assert planned - without == pytest.approx(saved - really, rel=0.03)


def kept_by_stages(model: str) -> dict[str, tuple[int, int, int]]:
    found = {}
    for name, layout in LAYOUTS.items():
        policy = build(model, config_of("bf16", layout))
        found[name] = (mpu.get_pipeline_model_parallel_rank(), *saved_by_forward(policy))
        mpu.destroy_model_parallel()
    return found


def test_activations_of_every_layout(tmp_path: Path) -> None:
    model = "qwen3-untied"
    ranks = run_ranks(kept_by_stages, 4, tmp_path, str(save_model(model, tmp_path / "model")))
    for name, layout in LAYOUTS.items():
        config = config_of("bf16", layout)
        shape = layout_of(config, 4, "cpu")
        for stage, saved, tokens in (rank[name] for rank in ranks):
            planned = activations(trained_architecture(CONFIGS[model], config), config, shape, stage, Row(tokens, 0))
            assert planned.kept == pytest.approx(saved, rel=0.01), (name, stage)
