"""One pass over a batch: the rows of this rank, and what they have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from megatron.core import parallel_state as mpu
from torch import Tensor

from fastsvs.algorithms import Batch
from fastsvs.architecture import Architecture
from fastsvs.config import PolicyConfig
from fastsvs.layout_checks import FP8_MULTIPLE
from fastsvs.policy.bundles import Sizes, plan_rows
from fastsvs.policy.expert_load import Routings
from fastsvs.policy.row import Packer, Row


@dataclass(frozen=True, slots=True)
class Pass:
    """The rows of one pass."""

    rows: Iterator[Row]
    """Rows of this rank, which are packed as they are asked for."""
    count: int
    """Number of the rows of each rank."""
    saved: float
    """Share of the tokens of prompts and responses that shared prompts do without, over all ranks."""
    routings: Routings | None
    """Routing of this rank's rows; None for a dense model."""


def plan_pass(
    batch: Batch,
    sizes: Sizes,
    architecture: Architecture,
    config: PolicyConfig,
    rotary: Tensor,
    *,
    keep_attention: bool = False,
) -> Pass:
    """Deal a batch to the rows of all ranks. `rotary` and `keep_attention` are those of `Packer`."""
    ranks, rank = mpu.get_data_parallel_world_size(), mpu.get_data_parallel_rank()
    plan = plan_rows(sizes, batch.kinds, architecture.forward_flops, config.tokens_per_micro_batch, ranks)
    everything = list(chain.from_iterable(plan))
    routings = None
    if architecture.experts:
        routings = Routings(architecture, sizes.kept(everything), rotary.device)
    multiple = config.tensor_parallel if config.sequence_parallel else 1
    multiple *= FP8_MULTIPLE if config.fp8 else 1
    packer = Packer(
        batch,
        sizes,
        rotary,
        multiple,
        routings,
        rank=mpu.get_context_parallel_rank(),
        ranks=mpu.get_context_parallel_world_size(),
        keep_attention=keep_attention,
        linear=architecture.delta_net is not None,
    )
    return Pass(map(packer.pack, plan[rank]), len(plan[rank]), sizes.saved(everything), routings)
