"""Rollouts on vLLM servers: started, watched and restarted here, or run by somebody else."""

from fastsvs.rollout.vllm.client import Endpoint
from fastsvs.rollout.vllm.engine import VllmEngine
from fastsvs.rollout.vllm.server import ExternalServer, LocalServer, Server

__all__ = ["Endpoint", "ExternalServer", "LocalServer", "Server", "VllmEngine"]
