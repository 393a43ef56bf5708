"""The start of a job: after its newest checkpoint, with the weights of another run, or anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastsvs import distributed
from fastsvs.config import TrainedModelConfig
from fastsvs.policy import Policy, checkpoint
from fastsvs.stored_run import RunLayout, checkpoint_step
from fastsvs.training.checks import first_checkpoint


@dataclass(frozen=True)
class Start:
    """The step after which a job goes on, and what it goes on with."""

    step: int = 0
    """Number of steps already done."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """State that the run's newest checkpoint keeps besides the policy's."""
    facts: Sequence[str] = ()
    """Lines about it for the terminal."""


def load_start(policy: Policy, model: TrainedModelConfig, run: RunLayout) -> Start:
    """Load the checkpoint that a job of the run folder begins with into its policy. Collective.

    Raises UserError on every rank for one that is damaged or of another model.
    """
    if newest := distributed.broadcast(checkpoint.latest(run.checkpoints)):
        step = checkpoint_step(newest)
        return Start(step, checkpoint.load(policy, newest), [f"resuming {run.root} after step {step}"])
    if first := distributed.broadcast(first_checkpoint(model)):
        checkpoint.load(policy, first)
        return Start(facts=[f"beginning with the weights and the optimizer's moments of {first}"])
    return Start()
