"""Rollout: prompts in, sampled responses with their log-probs out, over engines that are known by name."""

from fastsvs.rollout.driver import Rollouts, Running, open_rollouts
from fastsvs.rollout.engine import Engine, Inference, Request, Rollout, SamplingParams, drain
from fastsvs.rollout.local import LocalEngine
from fastsvs.rollout.nodes import Nodes, check_dedicated, read_nodes
from fastsvs.rollout.registry import ENGINES, Asked, EngineFactory, EnginePlan
from fastsvs.rollout.spec import EngineSpec, engine_spec, sampling_params
from fastsvs.rollout.vllm import VllmEngine, announced, cpu_cache_gib

__all__ = [
    "ENGINES",
    "Asked",
    "Engine",
    "EngineFactory",
    "EnginePlan",
    "EngineSpec",
    "Inference",
    "LocalEngine",
    "Nodes",
    "Request",
    "Rollout",
    "Rollouts",
    "Running",
    "SamplingParams",
    "VllmEngine",
    "announced",
    "check_dedicated",
    "cpu_cache_gib",
    "drain",
    "engine_spec",
    "open_rollouts",
    "read_nodes",
    "sampling_params",
]
