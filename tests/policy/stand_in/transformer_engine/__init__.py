"""A stand-in for Transformer Engine on a CPU: its interfaces as Megatron-core's wrappers use them, in plain torch."""

from transformer_engine import common, pytorch

__version__ = "2.4.0"
__all__ = ["common", "pytorch"]
