"""The in-process engine: a small decoder with continuous batching, made for models that fit every process whole."""

from fastsvs.rollout.local.engine import LocalEngine

__all__ = ["LocalEngine"]
