"""Which nodes of a torchrun job train, and which run rollout servers alone (`rollout.placement: dedicated`)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastsvs.config import RolloutConfig
from fastsvs.distributed import launched_world_size
from fastsvs.errors import UserError


@dataclass(frozen=True, slots=True)
class Nodes:
    """Nodes count from 0 in the order of their ranks; the last `serving` of them train nothing."""

    count: int
    own: int
    """This process's."""
    ranks_per_node: int
    serving: int

    @property
    def trainers(self) -> int:
        """Processes that train."""
        return (self.count - self.serving) * self.ranks_per_node

    @property
    def serves(self) -> bool:
        """This process belongs to a node that only serves."""
        return self.own >= self.count - self.serving


def read_nodes(rollout: RolloutConfig) -> Nodes:
    """The job that torchrun started (a plain start is one node with one process). Raises UserError when it has too few
    nodes for the placement, or nodes of unequal size."""
    world, local = launched_world_size() or 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    serving = rollout.nodes if rollout.placement == "dedicated" else 0
    if world % local:
        raise UserError(f"every node must have the same --nproc-per-node: {world} processes, {local} on this node")
    count = world // local
    if serving and rollout.engine == "local":
        raise UserError("rollout.placement: dedicated needs servers: set rollout.engine: vllm")
    if serving >= count:
        raise UserError(
            f"rollout.nodes={serving} of the job's {count} node(s) would run servers, and none would train: start "
            f"torchrun with --nnodes {serving + 1} or more"
        )
    return Nodes(count, int(os.environ.get("GROUP_RANK", "0")), local, serving)
