"""`fastsvs export`: a run's newest checkpoint, or any other, as a Hugging Face folder with its tokenizer, or as an
adapter."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fastsvs.distributed import launched_world_size
from fastsvs.errors import UserError
from fastsvs.policy import MergedSource, StoredWeights, open_trained, save_adapters, save_hf, write_companions


def export_run(run: Path, out: Path, *, adapter: bool = False) -> int:
    """Write the folder `out`, which must not exist yet, and return the step that was exported. A run with adapters
    gives the model merged with them, or with `adapter` the adapters alone, in PEFT's format. Raises UserError where
    there are none."""
    check_new(out, "fastsvs export")
    stored = open_trained(run)
    if not adapter:
        write_hf_folder(stored, out)
    elif isinstance(stored.source, MergedSource):
        merged = stored.source
        save_adapters(merged.adapters, merged.architecture, merged.dtype, merged.base_path, out)
    else:
        raise UserError(f"{run} trains all weights (policy.lora.rank=0) and has no adapter: leave --adapter out")
    return stored.step


def check_new(out: Path, command: str) -> None:
    """Check that `out` is not there yet, and that a single process of `command` will write it. Raises UserError where
    it is otherwise."""
    if (launched_world_size() or 1) > 1:
        raise UserError(f"{command} takes one process: start it without torchrun")
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: name a new folder")


def write_hf_folder(stored: StoredWeights, out: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
    """Write weights (others of the same names and dtype, if given), config, tokenizer and what generation stops on."""
    dtype = stored.dtype or stored.hf_config.dtype or torch.float32
    others = partial(write_companions, stored.model)
    save_hf(weights or stored.hf_weights(), stored.hf_config, stored.architecture, dtype, out, others)
