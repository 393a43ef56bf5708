"""The files of a model folder beside its weights: config.json, generation_config.json, the tokenizer and its templates.

A run keeps those of the model that it began with in `base/` of its folder, so that its checkpoints can be exported and
evaluated wherever that model is by then.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from fastsvs.config import ModelConfig
from fastsvs.data import load_tokenizer
from fastsvs.errors import UserError
from fastsvs.files import draft_of
from fastsvs.model_files import CONFIG, GENERATION_CONFIG, model_file

BASE = "base"


def keep_base(model: ModelConfig, tokenizer: PreTrainedTokenizerBase, run: Path) -> None:
    """Keep in the run folder `run` what its checkpoints need of `model`, unless it is there. Raises UserError when it
    cannot be written."""
    if (run / BASE).is_dir():
        return
    with draft_of(run / BASE) as draft:
        for name in (CONFIG, GENERATION_CONFIG):
            _copy(model.path, name, draft)
        _save_tokenizer(tokenizer, draft)


def base_of(run: Path, model: ModelConfig) -> ModelConfig:
    """Return the model whose files belong to the checkpoints of `run`: what the run has kept, or for a run of an
    earlier version `model` itself."""
    return ModelConfig(path=str(run / BASE)) if (run / BASE / CONFIG).is_file() else model


def write_companions(model: ModelConfig, folder: Path) -> None:
    """Write into `folder` what a model needs beside config.json and weights: the tokenizer of `model` with its
    templates, and its generation_config.json to the byte. Raises UserError or OSError when they cannot be written."""
    _save_tokenizer(load_tokenizer(model.tokenizer or model.path), folder)
    _copy(model.path, GENERATION_CONFIG, folder)


def _copy(path: str, name: str, folder: Path) -> None:
    source = model_file(path, name)
    if source is not None:
        shutil.copyfile(source, folder / name)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # tokenizers raises bare exceptions when the disk refuses
        raise UserError(f"the tokenizer cannot be written to {folder}: {error}") from error
