"""Rollout engines by name."""

from __future__ import annotations

from collections.abc import Sequence
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


class EngineFactory(Protocol):
    """In practice the engine's class."""

    collective: bool
    """See `Engine`."""

    def build(self, spec: EngineSpec) -> Engine:
        """An engine without weights yet."""


ENGINES: Registry[EngineFactory] = Registry("rollout engine")
