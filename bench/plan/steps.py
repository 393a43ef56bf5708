"""Whole steps on a CPU: `torchrun -m bench.plan.steps --case NAME FOLDER/FILE` writes the processor seconds of a step
of the model in FOLDER/model.

Weights are random, so that responses end by chance alone and the lengths of a step are known beforehand; the reward is
the policy's own log-prob, under which every group is learned from.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.distributed as dist
from transformers import PretrainedConfig

from bench.plan.cases import TINY, Case
from bench.plan.clock import Clock
from fastsvs.architecture import read_architecture
from fastsvs.config import TrainJob, load
from fastsvs.plan import Answers, Cluster, Machines, Sampled, assumed, plan_job, read_hardware
from fastsvs.selfplay import ORIGINAL
from fastsvs.training import train

CONFIG = Path(__file__).parents[2] / "configs" / "tiny_rlvr.yaml"
STEPS = 4
PROMPT = 40
"""Mean number of tokens of a prompt of tiny:train."""


@dataclass(frozen=True, slots=True)
class Steps:
    """A job whose steps are timed."""

    ranks: int = 1
    wide: bool = False
    """True for a model of 50 M parameters, in place of the shape of models/tiny."""
    changes: tuple[str, ...] = ()

    @property
    def model(self) -> PretrainedConfig:
        return Case(wide=self.wide).model

    def job(self, folder: Path, *more: str) -> TrainJob:
        own = [
            f"model.path={folder}/model",
            f"model.tokenizer={TINY}",
            "model.initialize=random",
            "algorithm.reward=log_prob",
            "evaluation.path=null",
            "dynamics.every=0",
            f"run.dir={folder}/run",
            f"run.steps={STEPS}",
            f"run.save_every={STEPS}",
        ]
        return load(TrainJob, CONFIG, [*own, *self.changes, *more])


CALIBRATED_STEP = "step of tiny"
"""Case that `plan.decoding.LOCAL_TOKEN_SECONDS` is from; the others are predicted."""
STEP_CASES = {
    "step of tiny": Steps(),
    "step of tiny, twice the problems": Steps(changes=("run.prompts_per_step=64",)),
    "step of tiny, short responses": Steps(changes=("rollout.max_response_tokens=24",)),
    "step of tiny, DP 2": Steps(ranks=2),
    "step of tiny, TP 2": Steps(ranks=2, changes=("policy.tensor_parallel=2",)),
    "step of 50 M": Steps(wide=True, changes=("run.prompts_per_step=4", "rollout.max_response_tokens=32")),
}


def planned_step(case: Steps) -> float:
    """Return the planned seconds of a step."""
    job = case.job(Path("unused"))
    architecture = read_architecture(case.model)
    limit, draw = job.rollout.max_response_tokens, np.random.default_rng(0)
    shape = (job.run.prompts_per_step, job.rollout.samples_per_prompt)
    lengths = np.minimum(draw.geometric(1 / architecture.vocabulary, shape), limit)
    groups = [
        Answers(f"{i:04d}", ORIGINAL, PROMPT, tuple(map(int, row)), learned=True) for i, row in enumerate(lengths)
    ]
    sampled = Sampled(groups, limit, assumed("random weights"))
    machines = Machines(Cluster(1, case.ranks), read_hardware("cpu"))
    time = plan_job(architecture, job, machines, sampled).time
    return sum(time.seconds(phase) for phase in ("rollout", "credit", "update", "sync"))


def measure(case: Steps, folder: Path) -> float | None:
    """Return the processor seconds of a step on the main rank, the median of those after the first; None on others.
    `folder` holds the model, and gets the run."""
    train(case.job(folder, "logging.loggers=[bench.plan.clock:Clock]"))
    return float(median(np.diff(Clock.ends))) if Clock.ends else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=STEP_CASES, required=True)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    seconds = measure(STEP_CASES[options.case], options.file.parent)
    if seconds is not None:
        options.file.write_text(json.dumps([seconds]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
