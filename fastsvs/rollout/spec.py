"""Specification of the engine to build, and how a job's configuration becomes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from fastsvs import distributed
from fastsvs.config import RolloutConfig
from fastsvs.rollout.engine import SamplingParams
from fastsvs.sync import server_arguments, transport_for


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
    tells_experts: bool = False
    """True where rollouts are to say which experts computed their tokens."""


def engine_spec(
    rollout: RolloutConfig,
    hf_config: PretrainedConfig,
    stop: Sequence[int],
    dtype: torch.dtype,
    max_sequence_tokens: int,
    folder: Path,
    *,
    tells_experts: bool = False,
) -> EngineSpec:
    """Return the specification of an engine that gets its weights from this job's processes."""
    return EngineSpec(
        hf_config,
        dtype=dtype,
        device=distributed.device(),
        eos_token_ids=stop,
        rollout=rollout,
        max_sequence_tokens=max_sequence_tokens,
        folder=folder,
        tells_experts=tells_experts,
        server_arguments=server_arguments(transport_for(rollout.placement, distributed.device())),
    )


def sampling_params(rollout: RolloutConfig) -> SamplingParams:
    """Return the sampling parameters of training's requests."""
    return SamplingParams(rollout.temperature, rollout.top_p, rollout.top_k, rollout.max_response_tokens)
