"""Sizes of Megatron's buffers of weights and gradients, and of what the distributed optimizer keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import lcm, prod

from fastsvs.architecture import Architecture
from fastsvs.plan.layout import Layout
from fastsvs.policy import Degrees, hf_shapes, learned_entries, megatron_shapes

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
    learned: int
    """Bytes of those of the weights that learn, with padding."""
    gradients: int
    owned: int
    """Number of values whose optimizer state is on the rank, with padding."""
    masters: int
    """Bytes of fp32 masters; 0 where the weights are fp32 and masters at once."""
    moments: int

    @property
    def state(self) -> int:
        return self.masters + self.moments


def degrees_of(layout: Layout) -> Degrees:
    """Return the degrees by which a layout's parameters are cut and dealt."""
    return Degrees(layout.tensor, layout.pipeline, layout.expert, layout.context, layout.expert_tensor)


@cache
def stage_buffers(architecture: Architecture, layout: Layout, stage: int) -> Buffers:
    """Return the buffers of each rank of a stage. Experts have buffers of their own, shared by fewer ranks; frozen
    weights have none."""
    degrees = degrees_of(layout)
    sizes = {name: prod(shape) for name, shape in megatron_shapes(architecture, degrees, stage).items()}
    learned = _learned(sizes, architecture)
    experts = {name: size for name, size in learned.items() if ".experts." in name}
    dense = {name: size for name, size in learned.items() if name not in experts}
    padded, owned = _padded(dense, architecture, layout.replicas)
    more, own = (
        _padded(experts, architecture, layout.tensor * layout.replicas // layout.expert_ranks) if experts else (0, 0)
    )
    return Buffers(
        parameters=sum(sizes.values()),
        weights=(padded + more + sum(sizes.values()) - sum(learned.values())) * layout.width,
        learned=(padded + more) * layout.width,
        gradients=(padded + more) * FP32,
        owned=owned + own,
        masters=(owned + own) * FP32 if layout.width < FP32 else 0,
        moments=(owned + own) * MOMENT_BYTES,
    )


def _learned(sizes: dict[str, int], architecture: Architecture) -> dict[str, int]:
    """Return the sizes of those of the parameters that learn."""
    names = {entry.name for entry in learned_entries(architecture, Degrees())} if architecture.lora else sizes.keys()
    return {name: size for name, size in sizes.items() if name in names}


def _padded(sizes: dict[str, int], architecture: Architecture, ranks: int) -> tuple[int, int]:
    """Return the values of the buffers of some parameters with padding, and those that each of `ranks` ranks owns."""
    multiple = lcm(ranks, BUCKET)
    padded = sum(-(-sum(map(_started, bucket)) // multiple) * multiple for bucket in _buckets(sizes, architecture))
    return padded, padded // ranks


@cache
def total_parameters(architecture: Architecture) -> int:
    """Return the number of parameters of the whole model."""
    return sum(map(prod, hf_shapes(architecture).values()))


def active_parameters(architecture: Architecture) -> int:
    """Return the number of parameters that compute a token: all but those of the experts that are not its own."""
    experts = architecture.experts
    idle = (experts.count - experts.active) * 3 * experts.ffn if experts else 0
    return total_parameters(architecture) - len(architecture.expert_layers) * architecture.hidden * idle


def checkpoint_bytes(architecture: Architecture) -> int:
    """Return the bytes of a checkpoint's values: fp32 masters and moments of every parameter that learns, with no
    padding but that of the vocabulary."""
    sizes = {name: prod(shape) for name, shape in megatron_shapes(architecture, Degrees(), 0).items()}
    return sum(_learned(sizes, architecture).values()) * (FP32 + MOMENT_BYTES)


def snapshot_bytes(architecture: Architecture, layout: Layout, stage: int) -> int:
    """Return the bytes that a rank of a stage at most copies into host memory for a checkpoint."""
    return stage_buffers(architecture, layout, stage).owned * (FP32 + MOMENT_BYTES)


def _started(size: int) -> int:
    return -(-size // START) * START


def _buckets(sizes: dict[str, int], architecture: Architecture) -> Iterator[list[int]]:
    """Yield the sizes of the parameters of each bucket. A tied embedding has one of its own, so that first and last
    stage cut it alike."""
    tied = {"embedding.word_embeddings.weight", "output_layer.weight"} if architecture.tied else set()
    yield [size for name, size in sizes.items() if name not in tied]
    yield from ([size] for name, size in sizes.items() if name in tied)
