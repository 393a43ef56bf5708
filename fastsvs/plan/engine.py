"""Memory of the engine: what a server takes, and how many tokens its cache holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from fastsvs.architecture import Architecture
from fastsvs.config import RolloutConfig
from fastsvs.errors import UserError
from fastsvs.plan.buffers import total_parameters
from fastsvs.plan.layout import Layout
from fastsvs.plan.ledger import GIB, Line, assumed, total
from fastsvs.rollout import cpu_cache_gib

UTILIZATION = 0.9
GRAPH_BYTES = 2 * GIB
WORK_BYTES = 2 * GIB
ASLEEP_BYTES = 3 * GIB
LEFT = "what is left of gpu-memory-utilization"
LOCAL_BLOCK = 16


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Memory of an engine on one device."""

    lines: Sequence[Line]
    cache_tokens: float
    """Number of tokens that the cache holds."""
    wanted_tokens: float
    """Number of tokens in it with `rollout.max_sequences` sequences of the mean context."""
    asleep: Sequence[Line]
    """Memory that stays while the engine sleeps."""

    @property
    def bytes(self) -> float:
        return total(self.lines)


def server_memory(
    architecture: Architecture, rollout: RolloutConfig, layout: Layout, device_bytes: float, mean_context: float
) -> EngineMemory:
    """Return the memory of a vLLM server on each of its devices, of `device_bytes` each. It takes a share of a GPU,
    whatever the model, and the cache gets what the model leaves; on a CPU the cache has a size of its own."""
    tensor = rollout.server.tensor_parallel
    on_cpu = layout.device == "cpu"
    share = device_bytes * utilization(rollout)
    weights = total_parameters(architecture) * layout.width / tensor
    graphs = 0 if on_cpu or rollout.server.arguments.get("enforce-eager") else GRAPH_BYTES
    a_token = (
        2 * architecture.attention_layers * max(1, architecture.groups // tensor) * architecture.head_dim * layout.width
    )
    cache = cpu_cache_gib(os.environ) * GIB if on_cpu else share - weights - graphs - WORK_BYTES
    lines = [
        Line("server: weights", weights),
        Line("server: CUDA graphs", graphs, assumed("2 GiB")),
        Line("server: activations and NCCL", WORK_BYTES, assumed("2 GiB")),
        Line("server: cache of keys and values", cache, assumed("a setting" if on_cpu else LEFT)),
    ]
    asleep = [Line("server, asleep", ASLEEP_BYTES, assumed("3 GiB of context, graphs and NCCL"))]
    return EngineMemory(lines, max(0.0, cache / a_token), rollout.max_sequences * mean_context, asleep)


def utilization(rollout: RolloutConfig) -> float:
    """Return the share of a GPU's memory that a server takes. Raises UserError where the configuration names none."""
    given = rollout.server.arguments.get("gpu-memory-utilization", UTILIZATION)
    try:
        share = float(given)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"rollout.server.arguments: gpu-memory-utilization={given} must be a number above 0, at most 1")
    return share


def local_memory(
    architecture: Architecture, rollout: RolloutConfig, layout: Layout, sequences: float, longest: int
) -> EngineMemory:
    """Return the memory of the local engine on each rank, where `sequences` are decoded and the longest has `longest`
    tokens: the cache has a slot of that length for each."""
    slots = min(rollout.max_sequences, sequences)
    rows = -(-int(slots) // LOCAL_BLOCK) * LOCAL_BLOCK * -(-longest // LOCAL_BLOCK) * LOCAL_BLOCK
    width = 4 if layout.device == "cpu" else layout.width
    a_token = 2 * architecture.attention_layers * architecture.groups * architecture.head_dim * width
    lines = [
        Line("engine: weights", total_parameters(architecture) * layout.width),
        Line("engine: cache of keys and values", rows * a_token),
    ]
    return EngineMemory(lines, rows, rows, lines)
