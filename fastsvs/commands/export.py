"""`fastsvs export`: a run's newest checkpoint, or any other, as a Hugging Face folder with its tokenizer."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from fastsvs.distributed import launched_world_size
from fastsvs.errors import UserError
from fastsvs.policy import StoredWeights, open_trained, save_hf, write_companions


def export_run(run: Path, out: Path) -> int:
    """Write the folder `out`, which must not exist yet, and return the step that was exported."""
    if (launched_world_size() or 1) > 1:
        raise UserError("fastsvs export takes one process, whatever the run had: start it without torchrun")
    if os.path.lexists(out):
        raise UserError(f"{out} exists already: name a new folder")
    stored = open_trained(run)
    write_hf_folder(stored, out)
    return stored.step


def write_hf_folder(stored: StoredWeights, out: Path, weights: Iterable[tuple[str, Tensor]] | None = None) -> None:
    """Write weights (others of the same names and dtype, if given), config, tokenizer and what generation stops on."""
    dtype = stored.dtype or stored.hf_config.dtype or torch.float32
    others = partial(write_companions, stored.model)
    save_hf(weights or stored.hf_weights(), stored.hf_config, stored.architecture, dtype, out, others)
