"""Samplers: one file each, registered by name in `SAMPLERS`."""

from fastsvs.selfplay.samplers.registry import (
    SAMPLERS,
    Draw,
    Sampler,
    SamplerFactory,
    SamplerTools,
    ShuffledEpochs,
)

__all__ = ["SAMPLERS", "Draw", "Sampler", "SamplerFactory", "SamplerTools", "ShuffledEpochs"]
