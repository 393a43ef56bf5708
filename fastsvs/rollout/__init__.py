"""Rollout: prompts in, sampled responses with their log-probs out, over engines that are known by name."""

from fastsvs.rollout.engine import Engine, RemoteEngine, Request, Rollout, SamplingParams, drain
from fastsvs.rollout.local import LocalEngine
from fastsvs.rollout.registry import ENGINES, Asked, EngineFactory, EnginePlan, EngineSpec
from fastsvs.rollout.vllm import VllmEngine

__all__ = [
    "ENGINES",
    "Asked",
    "Engine",
    "EngineFactory",
    "EnginePlan",
    "EngineSpec",
    "LocalEngine",
    "RemoteEngine",
    "Request",
    "Rollout",
    "SamplingParams",
    "VllmEngine",
    "drain",
]
