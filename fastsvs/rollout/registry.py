"""Rollout engines by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from transformers import PretrainedConfig

from fastsvs.config import RolloutConfig
from fastsvs.registry import Registry
from fastsvs.rollout.engine import Engine


@dataclass(frozen=True)
class EngineSpec:
    """Description of the engine to build."""

    hf_config: PretrainedConfig
    dtype: torch.dtype
    device: torch.device
    eos_token_ids: Sequence[int]
    rollout: RolloutConfig
    max_sequence_tokens: int
    """Longest prompt together with its response, in tokens."""
    folder: Path
    """Folder for the files that servers need and write, such as their logs."""
    weights: str | None = None
    """Hugging Face folder or hub id that servers load when they start; None where the trainer sends them the
    weights."""
    server_arguments: Sequence[str] = ()
    """Further vLLM options, which servers need to receive weights."""


@dataclass(frozen=True)
class Asked:
    """Demands of one set of problems on the engine."""

    temperature: float
    tokens: int
    """Length of the longest prompt that was read together with its longest response, in tokens."""


@dataclass(frozen=True)
class EnginePlan:
    """Facts about an engine that are known before anything is built."""

    hf_config: PretrainedConfig
    eos_token_ids: Sequence[int]
    rollout: RolloutConfig
    asked: Mapping[str, Asked]
    """Demands on the engine, by the section of the configuration that makes them."""
    here: bool
    """True where this process runs on a machine of the job; False for a dry run that leaves the number of processes
    open."""


class EngineFactory(Protocol):
    """Builder of an engine; in practice the engine's class."""

    collective: bool
    """Value of `collective` in the engines that it builds; see `Engine`."""

    def check(self, plan: EnginePlan) -> None:
        """Raise UserError for a plan that `build` or the first requests would be refused for."""

    def build(self, spec: EngineSpec) -> Engine:
        """Build an engine, which has no weights yet."""


ENGINES: Registry[EngineFactory] = Registry("rollout engine")
