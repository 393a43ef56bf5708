"""Writes a Hugging Face model folder from a stream of whole tensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Iterable
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
from fastsvs.files import draft_of
from fastsvs.model_files import CONFIG
from fastsvs.policy.mapping import hf_shapes
from fastsvs.policy.safetensors_folder import INDEX, SINGLE

SHARD_BYTES = 4 << 30


def save_hf(
    weights: Iterable[tuple[str, Tensor]],
    hf: PretrainedConfig,
    architecture: Architecture,
    dtype: torch.dtype,
    folder: Path,
    write_others: Callable[[Path], None] = lambda draft: None,
) -> None:
    """Write a Hugging Face model folder with the tensors of `weights`, in `dtype`, on the main rank. Every rank must
    consume `weights`, which is collective. `write_others` adds files to the draft of the folder, which appears only
    when all is complete. Raises UserError when it cannot be written."""
    if not distributed.is_main():
        for _ in weights:
            pass
        return
    try:
        with draft_of(folder) as draft:
            index = _write_shards(weights, _shard_plan(architecture, dtype), draft)
            # Not save_pretrained, which refuses some configurations that from_pretrained takes.
            _config(hf, dtype).to_json_file(draft / CONFIG)
            write_others(draft)
        _remove_other_weights(folder, {*index.values(), *([INDEX] if len(set(index.values())) > 1 else ())})
    except (OSError, SafetensorError, UserError) as error:
        raise UserError(f"the model cannot be written to {folder}: {error}") from error


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


def _write_shards(weights: Iterable[tuple[str, Tensor]], plan: list[list[str]], folder: Path) -> dict[str, str]:
    """Write all files, with an index where there are several, and return the file of every tensor."""
    stream = iter(weights)
    index: dict[str, str] = {}
    total = 0
    for number, names in enumerate(plan, start=1):
        file = SINGLE if len(plan) == 1 else f"model-{number:05}-of-{len(plan):05}.safetensors"
        tensors = {name: tensor.detach().cpu().clone() for name, tensor in (next(stream) for _ in names)}
        save_file({name: tensors[name].contiguous() for name in names}, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(plan) > 1:
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2)
        (folder / INDEX).write_text(text)
    return index


def _remove_other_weights(folder: Path, written: Collection[str]) -> None:
    """Remove weights of an earlier model, which would be read with or instead of those that were written."""
    for file in folder.iterdir():
        if (file.suffix == ".safetensors" or file.name == INDEX) and file.name not in written:
            file.unlink()


def _config(hf: PretrainedConfig, dtype: torch.dtype) -> PretrainedConfig:
    config = copy.deepcopy(hf)
    config.dtype = dtype
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[hf.model_type]]
    return config
