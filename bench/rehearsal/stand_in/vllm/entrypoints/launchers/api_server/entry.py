"""The entry point that `fastsvs.vllm_server` calls."""

from bench.rehearsal.server import main

__all__ = ["main"]
