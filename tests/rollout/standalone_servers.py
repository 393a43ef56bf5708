"""Real vLLM servers without a trainer: they read the weights of a model themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.rollout import EngineSpec

EOS = 3


def spec_of(model: Path, folder: Path, arguments: dict[str, Any], max_sequences: int, **server: Any) -> EngineSpec:
    """Servers of `model` in fp32 for up to 512 tokens, with these `arguments` of vLLM beside those that have them load
    it, and with these settings of `rollout.server`."""
    loaded = {"model": str(model), "load-format": "auto"}
    settings = {"count": 1, "start_timeout_seconds": 240, **server}
    own = ServerConfig(**settings, arguments=loaded | arguments)
    rollout = RolloutConfig(engine="vllm", max_sequences=max_sequences, server=own)
    config = AutoConfig.from_pretrained(model)
    return EngineSpec(config, torch.float32, torch.device("cpu"), [EOS], rollout, 512, folder)
