"""The degrees of parallelism of a layout, and where this rank stands in it.

Dense parameters are cut over tensor-parallel ranks and replicated over data-parallel ones. A layer's experts are dealt
to expert-parallel ranks, cut over expert-tensor-parallel ones, and replicated over the rest: both ways share out the
same ranks of a pipeline stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.distributed as dist
from megatron.core import parallel_state as mpu

from fastsvs.config import PolicyConfig


class Placed(Protocol):
    """The part of a parameter's entry that says where it lies; see `policy.mapping.Entry`."""

    @property
    def stage(self) -> int:
        """Return the pipeline stage."""

    @property
    def expert_rank(self) -> int | None:
        """Return the expert-parallel rank of an expert's parameter; None for one that is no expert's."""


@dataclass(frozen=True, slots=True)
class Degrees:
    """Numbers of ranks that share out the model, by what they share."""

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    context: int = 1
    """Number of ranks that share out a row's tokens; they have the same parameters, as data-parallel ranks do."""
    expert_tensor: int = 1
    """Number of ranks that each expert is cut over."""

    @classmethod
    def of(cls, config: PolicyConfig) -> Degrees:
        """Return the degrees that a configuration asks for."""
        return cls(
            config.tensor_parallel,
            config.pipeline_parallel,
            config.expert_parallel,
            config.context_parallel,
            config.expert_tensor_parallel,
        )

    def parts(self, entry: Placed) -> int:
        """Return the number of ranks that a parameter is cut over, if it is cut."""
        return self.tensor if entry.expert_rank is None else self.expert_tensor

    def cuts(self) -> Degrees:
        """Return the degrees that parameters are cut by, without those by which they are dealt."""
        return Degrees(self.tensor, expert_tensor=self.expert_tensor)


def here() -> Degrees:
    """Return the degrees of this process's layout."""
    return Degrees(
        mpu.get_tensor_model_parallel_world_size(),
        mpu.get_pipeline_model_parallel_world_size(),
        mpu.get_expert_model_parallel_world_size(),
        mpu.get_context_parallel_world_size(),
        mpu.get_expert_tensor_parallel_world_size(),
    )


def stage_layers(layers: int) -> range:
    """Return the numbers, in the network of so many `layers`, of those of this rank's pipeline stage."""
    each = layers // mpu.get_pipeline_model_parallel_world_size()
    first = each * mpu.get_pipeline_model_parallel_rank()
    return range(first, first + each)


def holds(entry: Placed) -> bool:
    """Check whether this rank has a parameter, or a part of it."""
    owns = entry.expert_rank in (None, mpu.get_expert_model_parallel_rank())
    return owns and entry.stage == mpu.get_pipeline_model_parallel_rank()


def part(entry: Placed) -> int:
    """Return this rank's number among those that a parameter is cut over."""
    if entry.expert_rank is None:
        return mpu.get_tensor_model_parallel_rank()
    return mpu.get_expert_tensor_parallel_rank()


def part_group(entry: Placed) -> dist.ProcessGroup:
    """Return the group of the ranks that a parameter is cut over."""
    if entry.expert_rank is None:
        return mpu.get_tensor_model_parallel_group()
    return mpu.get_expert_tensor_parallel_group()


def replicas() -> tuple[int, int]:
    """Return the number of ranks with the same part of every dense parameter, and this rank's number among them."""
    return (
        mpu.get_data_parallel_world_size(with_context_parallel=True),
        mpu.get_data_parallel_rank(with_context_parallel=True),
    )


def copies(entry: Placed) -> tuple[int, int]:
    """Return the number of ranks that have the same part of a parameter, and this rank's number among them."""
    if entry.expert_rank is None:
        return replicas()
    return mpu.get_expert_data_parallel_world_size(), mpu.get_expert_data_parallel_rank()
