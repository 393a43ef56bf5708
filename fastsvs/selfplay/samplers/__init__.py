"""Samplers: one file for each method, registered by name in `SAMPLERS`."""

from fastsvs.selfplay.samplers.consensus import ConsensusCurriculum
from fastsvs.selfplay.samplers.registry import (
    SAMPLERS,
    Draw,
    Sampler,
    SamplerFactory,
    SamplerTools,
    ShuffledEpochs,
    gives_spares,
)
from fastsvs.selfplay.samplers.resampling import AdaptiveResampling, GuidedResampling
from fastsvs.selfplay.samplers.reshaping import RepeatPadding, ThresholdClipping

__all__ = [
    "SAMPLERS",
    "AdaptiveResampling",
    "ConsensusCurriculum",
    "Draw",
    "GuidedResampling",
    "RepeatPadding",
    "Sampler",
    "SamplerFactory",
    "SamplerTools",
    "ShuffledEpochs",
    "ThresholdClipping",
    "gives_spares",
]
