"""Memory of a training rank on its device, by what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from fastsvs.architecture import Architecture
from fastsvs.buckets import plan_buckets
from fastsvs.config import PolicyConfig, TrainJob
from fastsvs.plan.activations import Row, activations, in_flight
from fastsvs.plan.buffers import FP32, Buffers, degrees_of, stage_buffers
from fastsvs.plan.layout import Layout
from fastsvs.plan.ledger import GIB, Basis, Line, assumed, calibrated, total
from fastsvs.policy import DTYPES, megatron_shapes, weight_specs
from fastsvs.sync import bucket_limit

CONTEXT_BYTES = 3 * GIB
TRAINER_RESULTS = "bench/results/trainer-h200-nvidia-h200-2026-11-27.json"
FULL_ROWS = Basis("exact", "for full rows")
FRAGMENTED = 0.2
"""Memory that torch's allocator holds and does not use, as a share of what comes and goes: 17 to 20% of it in
TRAINER_RESULTS (reserved less allocated, over what is not the policy's state)."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of one rank of a pipeline stage."""

    stage: int
    state: Sequence[Line]
    """Weights, gradients and the optimizer's state."""
    update: Sequence[Line]
    """Memory that comes and goes in an update, at its fullest moment."""
    publish: Sequence[Line]
    """Memory that comes and goes while weights are sent to the engine."""
    stays: Sequence[Line]
    """State that stays on the device while rollouts run."""
    runtime: Sequence[Line]

    @property
    def learning(self) -> Sequence[Line]:
        """Return the lines of an update's fullest moment."""
        return [*self.state, *self.update, *self.runtime]

    @property
    def publishing(self) -> Sequence[Line]:
        """Return the lines while weights are sent to an engine."""
        return [*self.stays, *self.publish, *self.runtime]


def device_memory(
    architecture: Architecture,
    policy: PolicyConfig,
    layout: Layout,
    row: Row,
    micro_batches: int,
    publish: Callable[[int], Sequence[Line]] = lambda stage: (),
    frozen: int = 0,
) -> list[DeviceMemory]:
    """Return the memory of a rank of each stage. `row` is the largest micro-batch, `micro_batches` the number of them
    that a rank has in an update, `publish` gives what sending weights takes on a stage, `frozen` is the number of
    further policies that only give log-probs."""
    return [
        _stage_memory(architecture, policy, layout, stage, row, micro_batches, publish(stage), frozen)
        for stage in range(layout.pipeline)
    ]


def publish_lines(architecture: Architecture, job: TrainJob, layout: Layout, stage: int) -> list[Line]:
    """Return what sending the weights takes on the fullest rank of a stage: two slots of the largest bucket where
    workers read from every rank or where the main rank sends, and the tensor that is gathered from the ranks
    that have parts of it."""
    if job.rollout.engine == "local":
        return []
    limit = bucket_limit(job.sync, layout.device)
    specs = weight_specs(architecture, DTYPES[job.policy.dtype])
    everywhere = layout.device == "cuda" and job.rollout.placement == "colocated"
    lines = []
    if stage == 0 or everywhere:
        lines.append(Line("buckets on their way", 2 * max(b.nbytes for b in plan_buckets(specs, limit))))
    # Experts lie on several ranks without tensor parallelism too.
    cut = [spec for spec in specs if layout.tensor > 1 or (layout.expert_ranks > 1 and ".experts." in spec.name)]
    if cut:
        gathered = 2 * max(spec.nbytes for spec in cut)
        lines.append(Line("a tensor being gathered", gathered, assumed("the largest, in shards and as one")))
    if architecture.lora:
        shapes = megatron_shapes(architecture, degrees_of(layout), stage)
        largest = max(map(prod, shapes.values()))
        merged = (2 * FP32 + layout.width) * largest
        lines.append(Line("a weight being merged with its adapters", merged, assumed("the largest, twice in fp32")))
    return lines


def sync_bytes(architecture: Architecture, policy: PolicyConfig) -> int:
    """Return the bytes of the weights as they travel to an engine."""
    return sum(spec.nbytes for spec in weight_specs(architecture, DTYPES[policy.dtype]))


def state_lines(buffers: Buffers) -> list[Line]:
    """Return the lines of a rank's state."""
    lines = [Line("weights", buffers.weights), Line("gradients", buffers.gradients)]
    if buffers.masters:
        lines.append(Line("masters", buffers.masters))
    return [*lines, Line("moments", buffers.moments)]


def _stage_memory(
    architecture: Architecture,
    policy: PolicyConfig,
    layout: Layout,
    stage: int,
    row: Row,
    micro_batches: int,
    publish: Sequence[Line],
    frozen: int,
) -> DeviceMemory:
    buffers = stage_buffers(architecture, layout, stage)
    state = state_lines(buffers)
    reference = [Line("reference model", frozen * buffers.weights)] if frozen else []
    update = _update_lines(architecture, policy, layout, stage, row, micro_batches)
    staying = {"none": state, "optimizer": state[:1], "all": []}[policy.offload]
    return DeviceMemory(
        stage, [*state, *reference], update, publish, [*staying, *reference], _runtime_lines(layout, update)
    )


def _update_lines(
    architecture: Architecture, policy: PolicyConfig, layout: Layout, stage: int, row: Row, micro_batches: int
) -> list[Line]:
    found = activations(architecture, policy, layout, stage, row)
    flying = in_flight(layout.pipeline, stage, micro_batches)
    # On a GPU the attention that is installed decides, and no hook has counted there.
    basis = FULL_ROWS if layout.device == "cpu" else calibrated(TRAINER_RESULTS)
    kept = Line(f"activations of {flying} x {row.tokens} tokens", flying * found.kept, basis)
    moments = [
        Line("a layer's backward pass", found.backward, assumed("counted by hand: the largest tensors of one layer")),
        Line("logits of a piece, and their gradient", found.head, basis),
    ]
    return [kept, max(moments, key=lambda line: line.amount)]


def _runtime_lines(layout: Layout, update: Sequence[Line]) -> list[Line]:
    if layout.device == "cpu":
        return []
    return [
        Line("CUDA context and NCCL", CONTEXT_BYTES, assumed("3 GiB a process")),
        Line("fragments", FRAGMENTED * total(update), calibrated(TRAINER_RESULTS)),
    ]
