"""Plan of a comparison: methods from one base, a line of configuration apart, until each has sampled as many
responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from bench.heldout import HELD_OUT, OnHeldOut
from fastsvs.errors import UserError
from fastsvs.files import read_jsonl

BASE_CONFIG = Path("configs/compare/base_sft.yaml")
BASE = "base"
RLVR, SVS, VERL, MAJORITY, CERTAINTY = "RLVR", "SvS", "SvS + VERL", "majority vote", "self-certainty"
COVO, MERF, RISE, HEAD_TAIL, MERGING = "CoVo", "MeRF", "RISE", "head-tail", "merging"
CONFIGS: Mapping[str, str] = {
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

UNTIMED = 2
"""Number of steps before those that are timed."""


@dataclass(frozen=True)
class Plan:
    suite: str
    seeds: tuple[int, ...]
    budget: int
    """Number of responses that a method samples."""
    steps: Mapping[str, int]
    """Number of steps of each method, more than enough to sample the budget."""
    timed: int
    """Number of steps of each method that are timed, alone on the machine, after two that are not."""
    every: int
    """Number of steps between checkpoints; the checkpoint nearest to the budget counts."""
    samples: int
    """Number of responses to each held-out problem, a power of two."""
    shrink: Mapping[str, tuple[str, ...]]
    """Overrides for `train`, `sft` and `eval`."""

    @property
    def ks(self) -> list[int]:
        return [2**power for power in range(self.samples.bit_length())]

    def base(self, root: Path) -> BaseModel:
        return BaseModel(self, root)

    def runs(self, root: Path) -> list[Run]:
        """Return the runs, seed by seed."""
        return [Run(self, root, method, seed) for seed in self.seeds for method in self.steps]

    def timings(self, root: Path) -> list[Timed]:
        return [Timed(self, root, method, self.seeds[0]) for method in CONFIGS]

    def evaluations(self, root: Path) -> Iterator[Evaluated]:
        """Yield the evaluations of finished runs."""
        for seed in self.seeds:
            yield Evaluated(self, root, BASE, seed, self.base(root).result)
        for run in self.runs(root):
            yield Evaluated(self, root, run.method, run.seed, run.checkpoint(run.step_of_budget()))


@dataclass(frozen=True)
class BaseModel:
    plan: Plan
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "base_sft"

    @property
    def result(self) -> Path:
        return self.root / "base"

    def arguments(self) -> list[str]:
        return ["sft", str(BASE_CONFIG), f"run.dir={self.folder}", f"export={self.result}", *self.plan.shrink["sft"]]


@dataclass(frozen=True)
class Run:
    plan: Plan
    root: Path
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.root / f"{file_name(self.method)}_seed{self.seed}"

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step_{step:08d}"

    @property
    def result(self) -> Path:
        """Return the path of a file that exists when the run is done."""
        return self.folder / "summary.json"

    def step_of_budget(self) -> int:
        """Return the step with a checkpoint after which the number of responses is nearest to the budget.

        Raises UserError when the run ended long before.
        """
        sampled = self.sampled()
        if sampled[-1] < 0.95 * self.plan.budget:
            raise UserError(
                f"{self.folder} has sampled {sampled[-1]} responses, not the {self.plan.budget} that methods are "
                f"compared at: give {self.method} more steps in bench/compare/plan.py, and remove {self.result} for it "
                "to go on"
            )
        saved = range(self.plan.every, len(sampled) + 1, self.plan.every)
        return min(saved, key=lambda step: abs(sampled[step - 1] - self.plan.budget))

    def sampled(self) -> list[int]:
        """Return the number of responses up to each step."""
        rows = read_jsonl(self.folder / "metrics.jsonl")
        return list(accumulate(sum(int(row[name]) for name in row if name.startswith("samples/")) for row in rows))

    @property
    def steps(self) -> int:
        return self.plan.steps[self.method]

    def arguments(self) -> list[str]:
        """Return the arguments of `fastsvs` that start or continue the training."""
        own = [f"model.path={self.root / 'base'}", f"run.dir={self.folder}", f"run.seed={self.seed}"]
        length = [f"run.steps={self.steps}", f"run.save_every={self.plan.every}"]
        config = f"configs/{CONFIGS[self.method]}.yaml"
        return ["train", config, *COMMON, *own, *length, *self.plan.shrink["train"]]


class Timed(Run):
    """The first steps of a run."""

    @property
    def folder(self) -> Path:
        return self.root / "timing" / file_name(self.method)

    @property
    def steps(self) -> int:
        return UNTIMED + self.plan.timed


@dataclass(frozen=True)
class Evaluated(OnHeldOut):
    """One model on the held-out problems. The base is sampled again for every seed."""

    plan: Plan
    root: Path
    method: str
    seed: int
    model: Path

    @property
    def folder(self) -> Path:
        return self.root / "evaluations" / f"{file_name(self.method)}_seed{self.seed}"


def file_name(method: str) -> str:
    return "_".join(method.lower().replace("+", " ").replace("-", " ").split())


PLANS = {
    "tiny": Plan(
        suite="compare-tiny",
        seeds=(0, 1),
        budget=38_400,
        steps={SVS: 190, VERL: 190, RISE: 150}
        | dict.fromkeys((RLVR, MAJORITY, CERTAINTY, COVO, MERF, HEAD_TAIL, MERGING), 300),
        timed=10,
        every=10,
        samples=32,
        shrink={"train": (), "sft": (), "eval": ()},
    ),
    "smoke": Plan(
        suite="compare-smoke",
        seeds=(0,),
        budget=32,
        steps=dict.fromkeys(CONFIGS, 2),
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
