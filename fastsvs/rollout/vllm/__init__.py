"""Rollouts on vLLM servers: started, watched and restarted here, or run by somebody else."""

from fastsvs.rollout.vllm.command import cpu_cache_gib
from fastsvs.rollout.vllm.engine import VllmEngine
from fastsvs.rollout.vllm.placement import announced, serve_node
from fastsvs.rollout.vllm.server import ExternalServer, LocalServer, Server

__all__ = ["ExternalServer", "LocalServer", "Server", "VllmEngine", "announced", "cpu_cache_gib", "serve_node"]
