"""Rollout engines by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PretrainedConfig

from fastsvs.registry import Registry
from fastsvs.rollout.engine import Engine


class EngineFactory(Protocol):
    collective: bool
    """Of the engines it makes."""

    def __call__(
        self,
        hf_config: PretrainedConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        eos_token_ids: Sequence[int],
        max_sequences: int,
    ) -> Engine:
        """An engine without weights yet, for the model that `hf_config` describes."""


ENGINES: Registry[EngineFactory] = Registry("rollout engine")
