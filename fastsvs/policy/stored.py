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

from fastsvs import config, fingerprints
from fastsvs.architecture import Architecture, load_hf_config, read_architecture, trained_architecture
from fastsvs.config import ModelConfig
from fastsvs.errors import UserError
from fastsvs.files import read_mapping
from fastsvs.policy import checkpoint
from fastsvs.policy.companions import base_of
from fastsvs.policy.learned import adapter_shapes, merge_adapter
from fastsvs.policy.manifest import read_manifest
from fastsvs.policy.mapping import hf_shapes
from fastsvs.policy.model import DTYPES
from fastsvs.policy.weights import WeightSource, open_source
from fastsvs.stored_run import RunLayout, open_run, run_of


@dataclass(frozen=True)
class StoredWeights:
    """Stored weights as a `WeightSource`. A checkpoint's tensors are the optimizer's fp32 masters; where it
    has adapters alone, the weights merged with them."""

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


@dataclass(frozen=True, slots=True)
class MergedSource:
    """A WeightSource of weights merged with the adapters of a checkpoint, as the policy publishes them."""

    base_path: str
    """Folder or hub id of the frozen weights."""
    base: WeightSource
    adapters: WeightSource
    architecture: Architecture
    """Architecture of the policy, with its adapters."""
    dtype: torch.dtype
    """Dtype in which the policy holds weights and adapters."""

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        """Read a merged tensor or a part of it; see `WeightSource`."""
        part, lora = self.base.read(name, cut, start, end).to(self.dtype), self.architecture.lora
        stem = name.removesuffix(".weight")
        if lora is None or f"{stem}.lora_A.weight" not in adapter_shapes(self.architecture):
            return part
        down = self.adapters.read(f"{stem}.lora_A.weight", cut if cut == 1 else None, start, end)
        up = self.adapters.read(f"{stem}.lora_B.weight", cut if cut == 0 else None, start, end)
        return merge_adapter(part, down.to(self.dtype), up.to(self.dtype), lora)


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
    layout = open_run(run).layout
    path, first_round = layout.config, layout.round(1)
    if not path.is_file():
        raise UserError(f"{run} has metrics, but no config.yaml that says what was run: put it back")
    if first_round.is_dir():
        raise UserError(f"{run} is a run of fastsvs self: name a round's model, as {first_round / 'model'}")
    trains = "rollout" in read_mapping(path)  # which fine-tuning does not have
    return config.load(config.TrainJob, path) if trains else config.load(config.SftJob, path)


def _of_checkpoint(path: Path, run: Path) -> StoredWeights:
    job = read_job(run)
    model = base_of(run, job.model)
    hf_config, dtype = load_hf_config(model.path), DTYPES[job.policy.dtype]
    architecture, trained = read_architecture(hf_config), trained_architecture(hf_config, job.policy)
    step, masters = checkpoint.open_masters(path, trained)
    source: WeightSource = masters
    if trained.lora:
        base = open_source(job.model, architecture, job.run.seed)
        check_base(path, job.model)
        source = MergedSource(job.model.path, base, masters, trained, dtype)
    return StoredWeights(model, step, hf_config, architecture, dtype, source, path / checkpoint.MANIFEST)


def check_base(path: Path, model: ModelConfig) -> None:
    """Check that the weights of `model` are those whose adapters the checkpoint at `path` holds, by the digest in its
    manifest. It reads them whole. Raises UserError for others."""
    base = read_manifest(path).state.get("base")
    if not isinstance(base, dict) or "weights" not in base:  # random weights follow from the seed
        return
    if fingerprints.of_weights(fingerprints.weight_files(model.path)).get("weights") != base["weights"]:
        raise UserError(
            f"checkpoint {path} holds adapters of {base.get('path')} alone, and the weights at {model.path} are others "
            "than those that it was trained on: bring them back"
        )
