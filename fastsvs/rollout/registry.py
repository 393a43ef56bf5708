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
    """What an engine is to be."""

    hf_config: PretrainedConfig
    dtype: torch.dtype
    device: torch.device
    eos_token_ids: Sequence[int]
    rollout: RolloutConfig
    max_sequence_tokens: int
    """Longest prompt with its response."""
    folder: Path
    """For what servers need and write: their logs."""
    weights: str | None = None
    """A Hugging Face folder or hub id that servers load when they start; else the trainer brings them the weights."""
    server_arguments: Sequence[str] = ()
    """vLLM options that receiving weights takes."""


@dataclass(frozen=True)
class Asked:
    """What an engine is to answer to one set of problems."""

    temperature: float
    tokens: int
    """Of the longest prompt that was read, with its longest response."""


@dataclass(frozen=True)
class EnginePlan:
    """What is known of an engine before anything is built."""

    hf_config: PretrainedConfig
    eos_token_ids: Sequence[int]
    rollout: RolloutConfig
    asked: Mapping[str, Asked]
    """By the section of the configuration that says how."""
    here: bool
    """This process stands where it will work: false for a dry run that leaves the number of processes open."""


class EngineFactory(Protocol):
    """In practice the engine's class."""

    collective: bool
    """See `Engine`."""

    def check(self, plan: EnginePlan) -> None:
        """Raises UserError for what `build` or the first requests would be refused for."""

    def build(self, spec: EngineSpec) -> Engine:
        """An engine without weights yet."""


ENGINES: Registry[EngineFactory] = Registry("rollout engine")
