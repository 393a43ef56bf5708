"""`fastsvs export`: a run's newest checkpoint, or any other, as a Hugging Face folder with its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from transformers import GenerationConfig

from fastsvs.config import ModelConfig
from fastsvs.data import load_tokenizer
from fastsvs.distributed import launched_world_size
from fastsvs.errors import UserError
from fastsvs.policy import StoredWeights, open_trained, save_hf


def export_run(run: Path, out: Path) -> int:
    """Write the folder `out`, which must not exist yet, and return the step that was exported."""
    if (launched_world_size() or 1) > 1:
        raise UserError("fastsvs export takes one process, whatever the run had: start it without torchrun")
    if out.exists():
        raise UserError(f"{out} exists already: name a new folder")
    stored = open_trained(run)
    write_hf_folder(stored, out)
    return stored.step


def write_hf_folder(stored: StoredWeights, out: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
    """Write weights (others of the same names and dtype, if given), config, tokenizer and what generation stops on."""
    dtype = stored.dtype or stored.hf_config.dtype or torch.float32
    save_hf(weights or stored.hf_weights(), stored.hf_config, stored.architecture, dtype, out)
    write_companions(stored.model, out)


def write_companions(model: ModelConfig, out: Path) -> None:
    """Write what a folder needs besides config and weights: the tokenizer of `model`, and what generation stops on."""
    try:
        load_tokenizer(model.tokenizer or model.path).save_pretrained(out)
        _copy_generation_config(model.path, out)
    except OSError as error:
        raise UserError(f"the tokenizer cannot be written to {out}: {error}") from error


def _copy_generation_config(model_path: str, out: Path) -> None:
    """Copy the model's own generation config, with all tokens that it ends on, if it has one."""
    try:
        generation = GenerationConfig.from_pretrained(model_path)
    except OSError:
        return
    generation.save_pretrained(out)
