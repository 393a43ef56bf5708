"""Plan of a comparison: methods from one base, a line of configuration apart, until each has sampled as many
responses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.experiments.jobs import Phase
from bench.experiments.plan import BASE, HELD_OUT, Plan, Run, file_name
from fastsvs.errors import UserError

BASE_CONFIG = Path("configs/compare/base_sft.yaml")
RLVR, SVS, VERL, MAJORITY, CERTAINTY = "RLVR", "SvS", "SvS + VERL", "majority vote", "self-certainty"
COVO, MERF, RISE, HEAD_TAIL, MERGING = "CoVo", "MeRF", "RISE", "head-tail", "merging"
CONFIGS = {
    RLVR: "tiny_rlvr",
    SVS: "tiny_svs",
    VERL: "tiny_verl",
    MAJORITY: "tiny_majority",
    CERTAINTY: "tiny_self_certainty",
    COVO: "tiny_covo",
    MERF: "tiny_merf",
    RISE: "tiny_rise",
    HEAD_TAIL: "tiny_head_tail",
    MERGING: "tiny_merging",
}
COMMON = (
    "data.limit=1024",
    "data.max_prompt_tokens=256",
    "evaluation.path=null",
    "dynamics.every=0",
    "run.prompts_per_step=16",
    "run.keep_checkpoints=1000",
)
"""Overrides that all methods share besides their base: the problems, and how many of them are in a step.

The optimizer is that of tiny_svs.yaml in all of them too.
"""

REFERENCES = {method: BASE if method == RLVR else RLVR for method in CONFIGS}
"""Name of what each method is compared with."""
UNTIMED = 2
"""Number of steps before those that are timed."""


@dataclass(frozen=True)
class Comparison(Plan):
    budget: int
    """Number of responses that a method samples; its steps are more than enough for them."""
    timed: int
    """Number of steps of each method that are timed, alone on the machine, after two that are not."""
    every: int
    """Number of steps between checkpoints; the checkpoint nearest to the budget counts."""

    def base(self, root: Path) -> Path:
        return root / "base"

    def recipe(self, method: str, root: Path) -> list[str]:
        own = [f"model.path={self.base(root)}", f"run.save_every={self.every}"]
        return ["train", f"configs/{CONFIGS[method]}.yaml", *COMMON, *own]

    def evaluated(self, run: Run) -> list[int]:
        return [self.step_of_budget(run)]

    def phases(self, root: Path) -> Iterator[Phase]:
        yield Phase([[BaseModel(self, root)]])
        yield from super().phases(root)
        yield Phase(([timed] for timed in self.timings(root)), alone=True)

    def timings(self, root: Path) -> list[Timed]:
        return [Timed(self, root, method, self.seeds[0]) for method in CONFIGS]

    def step_of_budget(self, run: Run) -> int:
        """Return the step with a checkpoint after which the number of responses is nearest to the budget.

        Raises UserError when the run ended long before.
        """
        sampled = run.responses()
        if sampled[-1] < 0.95 * self.budget:
            raise UserError(
                f"{run.folder} has sampled {sampled[-1]} responses, not the {self.budget} that methods are compared "
                f"at: give {run.method} more steps in bench/compare/plan.py"
            )
        saved = range(self.every, len(sampled) + 1, self.every)
        return min(saved, key=lambda step: abs(sampled[step - 1] - self.budget))


@dataclass(frozen=True)
class BaseModel:
    plan: Comparison
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "base_sft"

    @property
    def result(self) -> Path:
        return self.plan.base(self.root)

    def arguments(self) -> list[str]:
        return ["sft", str(BASE_CONFIG), f"run.dir={self.folder}", f"export={self.result}", *self.plan.shrink["sft"]]


class Timed(Run):
    """The first steps of a run."""

    plan: Comparison

    @property
    def folder(self) -> Path:
        return self.root / "timing" / file_name(self.method)

    @property
    def steps(self) -> int:
        return UNTIMED + self.plan.timed


PLANS = {
    "tiny": Comparison(
        suite="compare-tiny",
        seeds=(0, 1),
        steps={SVS: 190, VERL: 190, RISE: 150}
        | dict.fromkeys((RLVR, MAJORITY, CERTAINTY, COVO, MERF, HEAD_TAIL, MERGING), 300),
        budget=38_400,
        timed=10,
        every=10,
        samples=32,
        shrink={"train": (), "sft": (), "eval": ()},
    ),
    "smoke": Comparison(
        suite="compare-smoke",
        seeds=(0,),
        steps=dict.fromkeys(CONFIGS, 2),
        budget=32,
        timed=1,
        every=1,
        samples=4,
        shrink={
            "train": ("data.limit=16", "run.prompts_per_step=4", "rollout.samples_per_prompt=4"),
            "sft": ("data.limit=100", "run.steps=2", "policy.optimizer.warmup_steps=0"),
            "eval": (f"sets.{HELD_OUT}.data.limit=8",),
        },
    ),
}
