"""Which nodes of a torchrun job train, and which run rollout servers alone (`rollout.placement: dedicated`)."""

from __future__ import annotations

import os
from dataclasses import dataclass

from fastsvs.config import RolloutConfig
from fastsvs.distributed import launched_world_size
from fastsvs.errors import UserError
from fastsvs.variables import whole_number

LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a job, counted from 0 in the order of their ranks; the last `serving` of them train nothing."""

    count: int
    own: int
    """Number of this process's node."""
    ranks_per_node: int
    serving: int
    leads: bool
    """True where this process is the first of its node."""

    @property
    def trainers(self) -> int:
        """Return the number of processes that train."""
        return (self.count - self.serving) * self.ranks_per_node

    @property
    def with_servers(self) -> range:
        """Return the nodes on which servers run that this job starts."""
        return range(self.count - self.serving if self.serving else 0, self.count)

    @property
    def serves(self) -> bool:
        """Return True when this process belongs to a node that only serves."""
        return self.own >= self.count - self.serving


def check_dedicated(rollout: RolloutConfig) -> None:
    """Raise UserError for nodes that are kept free for servers where the engine has no servers."""
    if rollout.placement == "dedicated" and rollout.engine == "local":
        raise UserError("rollout.placement: dedicated needs servers: set rollout.engine: vllm")


def read_nodes(rollout: RolloutConfig) -> Nodes:
    """Read the nodes of the job that torchrun started (a plain start is one node with one process). Raises UserError
    when it has too few nodes for the placement, or nodes of unequal size."""
    check_dedicated(rollout)
    world, local = launched_world_size() or 1, whole_number("LOCAL_WORLD_SIZE", 1, least=1)
    serving = rollout.nodes if rollout.placement == "dedicated" else 0
    if world % local:
        raise UserError(f"every node must have the same --nproc-per-node: {world} processes, {local} on this node")
    count = world // local
    if serving >= count:
        raise UserError(
            f"rollout.nodes={serving} of the job's {count} node(s) would run servers, and none would train: start "
            f"torchrun with --nnodes {serving + 1} or more"
        )
    spread = count > 1 and rollout.engine != "local" and rollout.placement != "external"
    if spread and rollout.server.host in LOOPBACK:
        raise UserError(
            f"rollout.server.host: {rollout.server.host} cannot be reached from the job's other nodes: set it to auto, "
            "or to the address of a private interface"
        )
    own, leads = whole_number("GROUP_RANK", 0), os.environ.get("LOCAL_RANK", "0") == "0"
    return Nodes(count, own, local, serving, leads)
