"""Sizes of a rehearsal, and the job that follows from one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CONFIG = "configs/qwen2.5_32b_svs.yaml"


@dataclass(frozen=True, slots=True)
class Scale:
    """Size of a rehearsal. What is not said here is as in the shipped configuration."""

    ranks: int
    """Number of ranks on each node, as torchrun starts them; on serving nodes only the first one has work."""
    trainers: int
    serving: int
    """Numbers of nodes that train and that serve."""
    layers: int
    tensor: int
    pipeline: int
    servers: int
    """Number of servers on each serving node; each has as many workers that receive weights as 32B's has GPUs."""
    prompts: int
    """Number of problems of a step in the first job; the second has twice as many."""
    variants: int
    solutions: int
    """Numbers of variants of a context and of solutions of a variant."""
    solved_every: int
    """Number of problems among which one is solved now and then, and the others never."""
    samples_per_update: int
    long_median: int
    """Median length of responses that are never right, from which nothing is learned, in tokens."""
    short_median: int
    """Median length of responses to problems that are solved now and then, in tokens."""
    seconds_per_token: float
    """Time in which a server decodes a token of one sequence."""

    @property
    def nodes(self) -> int:
        return self.trainers + self.serving

    @property
    def training_ranks(self) -> int:
        return self.trainers * self.ranks

    def describe(self) -> str:
        data = self.training_ranks // (self.tensor * self.pipeline)
        return (
            f"{self.trainers} x {self.ranks} trainer ranks (TP{self.tensor} PP{self.pipeline} DP{data}), "
            f"{self.layers} layers, {self.serving} x {self.servers} servers"
        )


FULL = Scale(
    ranks=8,
    trainers=2,
    serving=2,
    layers=64,
    tensor=4,
    pipeline=2,
    servers=2,
    prompts=16,
    variants=2,
    solutions=4,
    solved_every=8,
    samples_per_update=2048,
    long_median=1000,
    short_median=32,
    seconds_per_token=1e-3,
)
SMALL = Scale(
    ranks=2,
    trainers=2,
    serving=1,
    layers=4,
    tensor=2,
    pipeline=2,
    servers=2,
    prompts=8,
    variants=2,
    solutions=4,
    solved_every=4,
    samples_per_update=32,
    long_median=200,
    short_median=32,
    seconds_per_token=1e-4,
)
SCALES = {"full": FULL, "small": SMALL}


def command_line(scale: Scale, inputs: Path, run: Path, prompts: int, steps: int) -> Sequence[str]:
    """Return the words of `fastsvs train` for a job with so many problems a step and so many steps."""
    stage = scale.layers // scale.pipeline
    return (
        "train",
        CONFIG,
        f"model.path={inputs / 'model'}",
        "model.initialize=random",
        f"data.path={inputs / 'problems.jsonl'}",
        f"evaluation.path={inputs / 'held_out.jsonl'}",
        f"rollout.nodes={scale.serving}",
        f"rollout.server.count={scale.servers}",
        f"selfplay.variants_per_context={scale.variants}",
        f"selfplay.samples_per_variant={scale.solutions}",
        f"selfplay.template={inputs / 'synthesis.txt'}",
        f"algorithm.samples_per_update={scale.samples_per_update}",
        f"policy.tensor_parallel={scale.tensor}",
        f"policy.pipeline_parallel={scale.pipeline}",
        f"policy.recompute_layers={stage - max(1, stage // 8)}",  # the configuration's share
        "sync.verify=true",
        "run.timeout_seconds=600",
        f"run.dir={run}",
        f"run.steps={steps}",
        "run.save_every=1",
        f"run.prompts_per_step={prompts}",
    )
