"""Writes a Hugging Face model folder from a stream of whole tensors."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from fastsvs import distributed
from fastsvs.architecture import Architecture
from fastsvs.errors import UserError
from fastsvs.policy.mapping import hf_shapes

SHARD_BYTES = 4 << 30


def save_hf(
    weights: Iterable[tuple[str, Tensor]],
    hf: PretrainedConfig,
    architecture: Architecture,
    dtype: torch.dtype,
    folder: Path,
) -> None:
    """Write a Hugging Face model folder with the tensors of `weights`, in `dtype`, on the main rank. Every rank must
    consume `weights`, which is collective. Files appear in `folder` only when all are complete. Raises UserError when
    they cannot be written."""
    if not distributed.is_main():
        for _ in weights:
            pass
        return
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write_shards(weights, _shard_plan(architecture, dtype), partial)
        _config(hf, dtype).save_pretrained(partial)
        folder.mkdir(parents=True, exist_ok=True)
        for file in partial.iterdir():
            os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the model cannot be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _shard_plan(architecture: Architecture, dtype: torch.dtype) -> list[list[str]]:
    """Return the names of each file's tensors, in the order in which they come."""
    files: list[list[str]] = [[]]
    size = 0
    for name, shape in hf_shapes(architecture).items():
        tensor_bytes = torch.Size(shape).numel() * dtype.itemsize
        if files[-1] and size + tensor_bytes > SHARD_BYTES:
            files.append([])
            size = 0
        files[-1].append(name)
        size += tensor_bytes
    return files


def _write_shards(weights: Iterable[tuple[str, Tensor]], plan: list[list[str]], folder: Path) -> None:
    stream = iter(weights)
    index: dict[str, str] = {}
    total = 0
    for number, names in enumerate(plan, start=1):
        file = "model.safetensors" if len(plan) == 1 else f"model-{number:05}-of-{len(plan):05}.safetensors"
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in (next(stream) for _ in names)}
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(plan) > 1:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
        (folder / "model.safetensors.index.json").write_text(text)


def _config(hf: PretrainedConfig, dtype: torch.dtype) -> PretrainedConfig:
    config = copy.deepcopy(hf)
    config.dtype = dtype
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[hf.model_type]]
    return config
