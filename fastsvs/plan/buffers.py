"""Sizes of Megatron's buffers of weights and gradients, and of what the distributed optimizer keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import lcm, prod

from fastsvs.architecture import Architecture
from fastsvs.plan.layout import Layout
from fastsvs.policy import hf_shapes, megatron_shapes

START, BUCKET = 64, 128
"""Multiples of values at which a parameter and a bucket begin (Megatron-core 0.16, `param_and_grad_buffer.py`)."""
FP32 = 4
MOMENT_BYTES = 2 * FP32


@dataclass(frozen=True, slots=True)
class Buffers:
    """Bytes of a rank's state; those of the optimizer with its share of the padding."""

    parameters: int
    """Number of the rank's parameters, without padding."""
    weights: int
    gradients: int
    masters: int
    """Bytes of fp32 masters; 0 where the weights are fp32 and masters at once."""
    moments: int

    @property
    def state(self) -> int:
        return self.masters + self.moments


def stage_buffers(architecture: Architecture, layout: Layout, stage: int) -> Buffers:
    """Return the buffers of each rank of a pipeline stage."""
    shapes = megatron_shapes(architecture, layout.tensor, layout.pipeline, stage)
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    multiple = lcm(layout.data, BUCKET)
    padded = sum(-(-sum(map(_started, bucket)) // multiple) * multiple for bucket in _buckets(sizes, architecture))
    share = padded // layout.data
    return Buffers(
        parameters=sum(sizes.values()),
        weights=padded * layout.width,
        gradients=padded * FP32,
        masters=share * FP32 if layout.width < FP32 else 0,
        moments=share * MOMENT_BYTES,
    )


def total_parameters(architecture: Architecture) -> int:
    """Return the number of parameters of the whole model."""
    return sum(map(prod, hf_shapes(architecture).values()))


def checkpoint_bytes(architecture: Architecture) -> int:
    """Return the bytes of a checkpoint's values: fp32 masters and moments of every parameter, with no padding but that
    of the vocabulary."""
    shapes = megatron_shapes(architecture, 1, 1, 0)
    return sum(map(prod, shapes.values())) * (FP32 + MOMENT_BYTES)


def snapshot_bytes(architecture: Architecture, layout: Layout, stage: int) -> int:
    """Return the bytes that a rank of a stage at most copies into host memory for a checkpoint."""
    return stage_buffers(architecture, layout, stage).gradients // FP32 // layout.data * (FP32 + MOMENT_BYTES)


def _started(size: int) -> int:
    return -(-size // START) * START


def _buckets(sizes: dict[str, int], architecture: Architecture) -> Iterator[list[int]]:
    """Yield the sizes of the parameters of each bucket. A tied embedding has one of its own, so that first and last
    stage cut it alike."""
    tied = {"embedding.word_embeddings.weight", "output_layer.weight"} if architecture.tied else set()
    yield [size for name, size in sizes.items() if name not in tied]
    yield from ([size] for name, size in sizes.items() if name in tied)
