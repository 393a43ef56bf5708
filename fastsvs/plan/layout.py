"""The machines that a job is planned for, and how its processes are spread over them."""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm
from typing import Literal

from fastsvs.architecture import Architecture
from fastsvs.config import PolicyConfig, RolloutConfig
from fastsvs.errors import UserError

DeviceKind = Literal["cuda", "cpu"]
BYTES = {"bf16": 2, "fp32": 4}
MOST_PROCESSES = 100_000


@dataclass(frozen=True, slots=True)
class Cluster:
    """The machines of a job, all alike."""

    nodes: int
    gpus: int
    """Number of processes of a node, each with a GPU of its own; on CPUs, of its processes."""

    def __post_init__(self) -> None:
        """Raise UserError for more processes than a schedule can be made for."""
        if self.nodes * self.gpus > MOST_PROCESSES:
            many = f"--nodes {self.nodes} with --gpus {self.gpus}"
            raise UserError(f"{many} is more than the {MOST_PROCESSES:,} processes that a plan is made for")

    def serving(self, rollout: RolloutConfig) -> int:
        """Return the number of nodes that run servers alone."""
        return rollout.nodes if rollout.placement == "dedicated" and rollout.engine != "local" else 0

    def trainers(self, rollout: RolloutConfig) -> int:
        """Return the number of processes that train. Raises UserError where none would."""
        serving = self.serving(rollout)
        if serving >= self.nodes:
            raise UserError(
                f"rollout.nodes={serving} of {self.nodes} node(s) would run servers, and none would train: plan for "
                f"--nodes {serving + 1} or more"
            )
        return (self.nodes - serving) * self.gpus

    def servers(self, rollout: RolloutConfig, device: DeviceKind) -> int:
        """Return the number of vLLM servers of the job, 0 for another engine. Raises UserError for one that a node has
        too few GPUs for; on CPUs a node has one unless it is told."""
        if rollout.engine != "vllm":
            return 0
        if rollout.placement == "external":
            return len(rollout.server.urls)
        if device == "cpu":
            return (rollout.server.count or 1) * (self.serving(rollout) or self.nodes)
        each = rollout.server.tensor_parallel
        count = rollout.server.count or self.gpus // each
        if not count or count * each > self.gpus:
            raise UserError(
                f"{max(count, 1)} server(s) a node with rollout.server.tensor_parallel={each} need "
                f"{max(count, 1) * each} GPUs, and a node has {self.gpus} (--gpus)"
            )
        return count * (self.serving(rollout) or self.nodes)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a policy lies on its ranks."""

    tensor: int
    pipeline: int
    data: int
    shards_sequence: bool
    """True where the activations between layers are cut along the sequence too."""
    width: int
    """Bytes of a weight or an activation."""
    device: DeviceKind
    expert: int = 1
    """Number of ranks that share out the experts, of those of a stage."""
    context: int = 1
    """Number of ranks that share out the tokens of a row."""
    expert_tensor: int = 1
    """Number of ranks that each expert is cut over."""

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.replicas

    @property
    def replicas(self) -> int:
        """Return the number of ranks with the same part of every dense parameter."""
        return self.context * self.data

    @property
    def expert_ranks(self) -> int:
        """Return the number of ranks that have all experts of a stage together, once."""
        return self.expert * self.expert_tensor

    @property
    def sequence(self) -> int:
        """Return the number of parts of an activation between layers."""
        return self.tensor if self.shards_sequence else 1

    @property
    def degrees(self) -> str:
        """Return the degrees of parallelism beside data parallelism, as text."""
        context = f"CP {self.context} x " if self.context > 1 else ""
        return f"TP {self.tensor} x {context}PP {self.pipeline}"

    def layers(self, architecture: Architecture) -> int:
        """Return the number of layers of a stage."""
        return architecture.layers // self.pipeline

    def expert_layers(self, architecture: Architecture) -> int:
        """Return the number of layers with experts of the stage that has most of them."""
        each = self.layers(architecture)
        counts = [0] * self.pipeline
        for layer in architecture.expert_layers:
            counts[layer // each] += 1
        return max(counts)


def layout_of(policy: PolicyConfig, processes: int | None, device: DeviceKind) -> Layout:
    """Return the layout of a policy on `processes` training processes (None: on the fewest that hold it). The number
    must suit the policy, as `check_layout` says."""
    sharing = policy.tensor_parallel * policy.context_parallel
    fewest = lcm(sharing, policy.expert_parallel * policy.expert_tensor_parallel) * policy.pipeline_parallel
    return Layout(
        tensor=policy.tensor_parallel,
        pipeline=policy.pipeline_parallel,
        data=max(1, (processes or fewest) // (sharing * policy.pipeline_parallel)),
        shards_sequence=policy.sequence_parallel and policy.tensor_parallel > 1,
        width=BYTES[policy.dtype],
        device=device,
        expert=policy.expert_parallel,
        context=policy.context_parallel,
        expert_tensor=policy.expert_tensor_parallel,
    )
