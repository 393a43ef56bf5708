"""Adapters as PEFT stores them, and transformers with them by the formula itself."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModelForCausalLM, PreTrainedModel

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 4, 6.0
PREFIX = "base_model.model."


class LowRank(nn.Module):
    """W + alpha / r * B A."""

    def __init__(self, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(down), nn.Parameter(up)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + ALPHA / RANK * self.lora_B @ self.lora_A


def save_adapter(model: Path, folder: Path, targets: tuple[str, ...] = ALL) -> Path:
    """An adapter of a model in PEFT's format with random A and B, so that each of them matters."""
    torch.manual_seed(1)
    tensors = {}
    for name, linear in projections(AutoModelForCausalLM.from_pretrained(model), targets):
        outputs, inputs = linear.weight.shape
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(RANK, inputs) * 0.1
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(outputs, RANK) * 0.1
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(targets)}
    settings |= {"base_model_name_or_path": str(model), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def with_adapter(model: Path, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """transformers' model whose projections are W + alpha / r * B A, where A and B alone learn."""
    found = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, experts_implementation="eager")
    found.requires_grad_(False)
    tensors = load_file(folder / "adapter_model.safetensors")
    for name, linear in list(projections(found, ALL)):
        if f"{PREFIX}{name}.lora_A.weight" in tensors:
            pair = (tensors[f"{PREFIX}{name}.lora_{which}.weight"].to(dtype) for which in "AB")
            parametrize.register_parametrization(linear, "weight", LowRank(*pair))
    return found


def adapter_gradients(model: PreTrainedModel) -> dict[str, Tensor]:
    """The gradients of `with_adapter`, under the names of PEFT's files without their prefix."""
    return {
        name.replace("parametrizations.weight.0.", "") + ".weight": parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def projections(model: nn.Module, targets: tuple[str, ...]) -> list[tuple[str, nn.Linear]]:
    """The linear layers that PEFT would find for these targets."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    ]
