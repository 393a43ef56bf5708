"""Rollout engines by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PretrainedConfig

from fastsvs.config import RolloutConfig
from fastsvs.registry import Registry
from fastsvs.rollout.engine import Engine
from fastsvs.rollout.spec import EngineSpec


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
    dtype: torch.dtype
    """Precision of the model's weights and activations."""
    rollout: RolloutConfig
    asked: Mapping[str, Asked]
    """Demands on the engine, by the section of the configuration that makes them."""
    here: bool
    """True where this process runs on a machine of the job; False for a dry run that leaves the number of processes
    open."""
    tells_experts: bool = False
    """True where rollouts are to say which experts computed their tokens."""


class EngineFactory(Protocol):
    """Builder of an engine; in practice the engine's class."""

    collective: bool
    """Value of `collective` in the engines that it builds; see `Engine`."""

    def check(self, plan: EnginePlan) -> None:
        """Raise UserError for a plan that `build` or the first requests would be refused for."""

    def build(self, spec: EngineSpec) -> Engine:
        """Build an engine, which has no weights yet."""


ENGINES: Registry[EngineFactory] = Registry("rollout engine", has=("collective", "check", "build"))
