"""Stored weights under Hugging Face names: of a model folder, a hub id, a run or one of its checkpoints.

Tensors are read one by one, whatever layout wrote them: nothing here needs a process group or a whole model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from fastsvs import config
from fastsvs.architecture import Architecture, load_hf_config, read_architecture
from fastsvs.config import ModelConfig
from fastsvs.errors import UserError
from fastsvs.policy import checkpoint
from fastsvs.policy.companions import base_of
from fastsvs.policy.mapping import hf_shapes
from fastsvs.policy.model import DTYPES
from fastsvs.policy.weights import WeightSource, open_source
from fastsvs.stored_run import RunLayout, run_of


@dataclass(frozen=True)
class StoredWeights:
    """Stored weights as a `WeightSource`. A checkpoint's tensors are the optimizer's fp32 masters."""

    model: ModelConfig
    """Model that the weights belong to: its config.json and its tokenizer."""
    step: int
    """Training step that wrote the weights; 0 for a plain model."""
    hf_config: PretrainedConfig
    architecture: Architecture
    dtype: torch.dtype | None
    """Dtype in which the policy used the weights; None for the one in which they are stored."""
    source: WeightSource
    manifest: Path | None = None
    """File with the checksums of the weights, of a checkpoint."""

    @property
    def tokenizer(self) -> str:
        """Return the folder or hub id of the tokenizer."""
        return self.model.tokenizer or self.model.path

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Read a tensor or a part of it; see `WeightSource`."""
        return self.source.read(name, cut, start, end)

    def hf_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all tensors, whole, in the order of the model's layers and in the dtype in which the policy used
        them."""
        for name in hf_shapes(self.architecture):
            tensor = self.read(name, None, 0, 0)
            yield name, tensor if self.dtype is None else tensor.to(self.dtype)


def open_weights(path: str | Path) -> StoredWeights:
    """Open the weights of a Hugging Face folder or hub id, of a run's newest checkpoint, or of one checkpoint of a run.

    Raises UserError when there is nothing that can be read, or when it is damaged.
    """
    run = RunLayout(Path(path))
    trained = any(file.exists() for file in (run.config, run.checkpoints, run.root / checkpoint.MANIFEST))
    return open_trained(Path(path)) if trained else open_model(ModelConfig(path=str(path)), seed=0)


def open_trained(path: Path) -> StoredWeights:
    """Open the newest checkpoint of a run folder, or one checkpoint; see `open_weights`."""
    found = find_checkpoint(path)
    return _of_checkpoint(found, run_of(found))


def find_checkpoint(path: Path) -> Path:
    """Return the checkpoint at `path`, or the newest one of the run folder there. Raises UserError where neither is."""
    if (path / checkpoint.MANIFEST).exists():
        return path
    read_job(path)
    newest = checkpoint.latest(RunLayout(path).checkpoints)
    if newest is None:
        raise UserError(f"{path} has no checkpoint yet")
    return newest


def open_model(model: ModelConfig, seed: int) -> StoredWeights:
    """Open the weights that a run with this configuration begins with."""
    hf_config = load_hf_config(model.path)
    architecture = read_architecture(hf_config)
    return StoredWeights(model, 0, hf_config, architecture, None, open_source(model, architecture, seed))


def read_job(run: Path) -> config.TrainJob | config.SftJob:
    """Read the configuration of a run folder. Raises UserError when the folder is no run, or a run of `fastsvs
    self`."""
    path, first_round = RunLayout(run).config, RunLayout(run).round(1)
    if not path.exists():
        raise UserError(f"{run} is not a run folder: it has no config.yaml")
    if first_round.is_dir():
        raise UserError(f"{run} is a run of fastsvs self: name a round's model, as {first_round / 'model'}")
    try:
        return config.load(config.TrainJob, path)
    except UserError:
        return config.load(config.SftJob, path)


def _of_checkpoint(path: Path, run: Path) -> StoredWeights:
    job = read_job(run)
    model = base_of(run, job.model)
    hf_config = load_hf_config(model.path)
    architecture = read_architecture(hf_config)
    step, source = checkpoint.open_masters(path, architecture)
    manifest = path / checkpoint.MANIFEST
    return StoredWeights(model, step, hf_config, architecture, DTYPES[job.policy.dtype], source, manifest)
