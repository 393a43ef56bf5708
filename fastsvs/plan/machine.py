"""Memory of a node's host, and space on the run's disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastsvs.architecture import Architecture
from fastsvs.config import PolicyConfig, RunConfig, TrainJob
from fastsvs.plan.buffers import checkpoint_bytes, snapshot_bytes, stage_buffers
from fastsvs.plan.layout import Layout
from fastsvs.plan.ledger import GIB, Line, assumed

PROCESS_BYTES = {"cuda": 4 * GIB, "cpu": GIB // 2}
SERVER_BYTES = 8 * GIB
BATCH_TOKEN_BYTES = 8 + 5 * 4
"""Bytes of a response token in the batch that every rank holds: its id, and five fp32 values."""
SAMPLE_TOKEN_BYTES = 6
"""Bytes of a token in samples/step_N.jsonl, as text with its share of the keys: assumed."""
EXPERTS_BASIS = assumed("2 bytes x layers with experts x experts of a token")
LOG_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class StepTokens:
    """Size of a step, for what it takes of the engine, hosts and disk."""

    samples: int = 0
    prompts: int = 0
    """Number of prompt tokens, a prompt counted for each response."""
    responses: int = 0
    """Number of response tokens."""
    mean_context: float = 0.0
    """Mean number of tokens of a sequence that is being decoded."""


def host_lines(
    architecture: Architecture, job: TrainJob, layout: Layout, ranks: int, servers: int, step: StepTokens
) -> list[Line]:
    """Return the host memory of the fullest node: `ranks` of its processes train, and `servers` run on it. On CPUs the
    policy is in it too."""
    policy = job.policy
    stage = max(range(layout.pipeline), key=lambda s: stage_buffers(architecture, layout, s).parameters)
    buffers = stage_buffers(architecture, layout, stage)
    away = {"none": 0, "optimizer": buffers.state, "all": buffers.state + buffers.weights}[policy.offload]
    batch = ranks * (step.prompts * 8 + step.responses * BATCH_TOKEN_BYTES)
    experts = (step.prompts + step.responses) * replayed_bytes(architecture, policy)
    own = buffers.weights + buffers.gradients + buffers.state if layout.device == "cpu" else 0
    return [
        Line("weights, gradients, optimizer", ranks * own),
        Line("checkpoint on its way", ranks * snapshot_bytes(architecture, layout, stage)),
        Line("state that left the GPUs", ranks * away),
        Line("the step's batch, on every rank", batch, assumed("28 bytes a response token")),
        Line("experts of tokens, as sampled", _samplings(job, ranks) * experts, EXPERTS_BASIS),
        Line("experts of tokens, one copy a node", experts if _shares_experts(job, layout) else 0, EXPERTS_BASIS),
        Line("trainer processes", ranks * PROCESS_BYTES[layout.device], assumed("libraries and CUDA's own")),
        Line("servers", servers * SERVER_BYTES, assumed("8 GiB each")),
    ]


def _samplings(job: TrainJob, ranks: int) -> int:
    """Return how many steps' samples lie in the memory of the node with the main rank. With the local engine each of
    its `ranks` has all samples."""
    return ranks if job.rollout.engine == "local" else 1 + job.train.staleness


def _shares_experts(job: TrainJob, layout: Layout) -> bool:
    """Return whether the main rank alone samples and others learn, who then share one copy a node."""
    return job.rollout.engine != "local" and layout.ranks > 1


def replayed_bytes(architecture: Architecture, policy: PolicyConfig) -> int:
    """Return the bytes of a token's experts in the batch; 0 where none are replayed."""
    experts = architecture.experts
    return 2 * len(architecture.expert_layers) * experts.active if experts and policy.router_replay == "rollout" else 0


def disk_lines(architecture: Architecture, run: RunConfig, step: StepTokens) -> list[Line]:
    """Return the space that the run folder takes at most: kept checkpoints and the one being written, samples, logs."""
    count = min(run.keep_checkpoints + 1, -(-run.steps // run.save_every) or 1)
    samples = run.steps * (step.prompts + step.responses) * SAMPLE_TOKEN_BYTES
    return [
        Line(f"{count} checkpoints", count * checkpoint_bytes(architecture)),
        Line("samples of all steps", samples, assumed("6 bytes a token")),
        Line("logs", LOG_BYTES, assumed("64 MiB")),
    ]


def fewest(lines: Sequence[Line]) -> list[Line]:
    """Return the lines that take anything."""
    return [line for line in lines if line.amount]
