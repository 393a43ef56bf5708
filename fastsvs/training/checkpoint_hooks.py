"""Checkpoint hooks, which replace the weights from time to time, given those that the run began with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from fastsvs import distributed
from fastsvs.config import MergingConfig, TrainJob
from fastsvs.errors import UserError
from fastsvs.policy import MergePlan, Policy, WeightSource, checkpoint, open_source, replace_weights
from fastsvs.registry import Registry
from fastsvs.seeding import derive_seed
from fastsvs.stored_run import checkpoint_name

CheckpointHook = Callable[[str, Tensor, Tensor], Tensor]
"""Function (Hugging Face name, first, current) -> weights to go on with; fp32, whole tensors. It must not depend on the
rank."""
HOOKS = Registry[Callable[[MergingConfig, int], CheckpointHook | None]]("checkpoint hook", takes=("config", "seed"))
"""Functions that make a hook from the configuration and a seed of the step."""


@HOOKS.register("none")
def no_hook(config: MergingConfig, seed: int) -> None:
    """Leave the weights alone."""


@HOOKS.register("merge")
def merge(config: MergingConfig, seed: int) -> CheckpointHook:
    """Average the weights with the first ones, over randomly kept changes (iterative model merging, arXiv 2503.02103;
    DARE)."""
    return MergePlan(config.weight, config.drop, seed).merge


def check(job: TrainJob) -> None:
    """Check that the hook that the job names exists, and that there are weights for it. Raises UserError otherwise."""
    HOOKS.get(job.merging.hook)
    if job.merging.hook != "none" and job.policy.lora.rank:
        raise UserError(
            f"merging.hook={job.merging.hook} makes weights of the first and the current ones, and with policy.lora "
            "adapters alone learn: set merging.hook=none, or use `fastsvs merge` on the exported model"
        )


def is_due(job: TrainJob, step: int) -> bool:
    """Return True when the weights after `step` steps are to be replaced."""
    return job.merging.hook != "none" and step > 0 and step % job.merging.every == 0


def apply(job: TrainJob, policy: Policy, scratch: Path, step: int) -> None:
    """Replace the policy's weights by those that the hook makes. Collective. They go by way of a checkpoint in the
    folder `scratch`, where the fp32 weights of any layout come together; it is removed again."""
    hook = HOOKS.get(job.merging.hook)(job.merging, derive_seed(job.run.seed, "checkpoint hook", step))
    if hook is None:
        return
    if distributed.is_main():
        shutil.rmtree(scratch, ignore_errors=True)  # what a kill has left
    checkpoint.save(policy, scratch, step, {}, keep=1)
    saved = scratch / checkpoint_name(step)
    first = open_source(job.model, policy.architecture, job.run.seed)
    _, current = checkpoint.open_masters(saved, policy.architecture)
    replace_weights(policy, HookedWeights(hook, first, current), keep_moments=job.merging.keep_moments)
    distributed.barrier()  # nobody reads it any more
    if distributed.is_main():
        shutil.rmtree(scratch)


@dataclass(frozen=True, slots=True)
class HookedWeights:
    """A WeightSource of the weights that the hook makes from two others."""

    hook: CheckpointHook
    first: WeightSource
    current: WeightSource

    def read(self, name: str, cut: int | None, start: int, end: int) -> Tensor:
        first, current = (source.read(name, None, 0, 0).float() for source in (self.first, self.current))
        whole = self.hook(name, first, current)
        if not isinstance(whole, Tensor) or whole.shape != current.shape or not whole.isfinite().all():
            raise UserError(f"merging.hook must return finite weights of {name}, of shape {list(current.shape)}")
        return whole if cut is None else whole.narrow(cut, start, end - start)
