"""Real vLLM servers without a trainer: they read the weights of a model themselves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from server_routes import ask
from transformers import AutoConfig

from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.rollout import EngineSpec, Rollout, VllmEngine

TINY = Path(__file__).parents[2] / "models" / "tiny"
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


def publish(engine: VllmEngine, version: int) -> None:
    """Only the label: the servers have read the weights themselves."""
    endpoints = engine.endpoints(240)
    for endpoint in endpoints:
        ask(endpoint, "POST", "/update_weight_version", {"new_version": str(version)})
    engine.weights_loaded([endpoint.name for endpoint in endpoints], version)


def collect(engine: VllmEngine, refresh: bool = True) -> dict[str, list[Rollout]]:
    groups: list[tuple[str, list[Rollout]]] = []
    deadline = time.monotonic() + 240
    while engine.pending():
        assert time.monotonic() < deadline, "requests were lost"
        groups += engine.poll(1.0)
        if refresh and engine.stale():
            publish(engine, 1)
    assert len(dict(groups)) == len(groups)
    return dict(groups)
