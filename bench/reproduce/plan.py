"""Plan of a reproduction: three methods from one base at several seeds, in the regime of configs/reproduce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.heldout import HELD_OUT, OnHeldOut

CONFIGS = Path("configs/reproduce")
MODEL = Path("models/tiny")
BASE, SVS, ON_POLICY, RLVR, SFT = "base", "SvS", "SvS on-policy", "RLVR", "SFT"
"""Names of the model that all begin with, and of the methods.

RLVR makes one optimizer step per step. SvS learns from several times as many responses and makes several; on-policy it
makes one.
"""
SELF_PLAY = (SVS, ON_POLICY)
METHODS = (RLVR, *SELF_PLAY, SFT)


@dataclass(frozen=True)
class Plan:
    suite: str
    seeds: tuple[int, ...]
    evaluated: Mapping[str, tuple[int, ...]]
    """Steps at which each method is evaluated, the longest run first; the last one is the run's length."""
    compared: int
    """Step, evaluated in all methods, at which they are compared."""
    samples: int
    """Number of responses to each held-out problem, a power of two."""
    shrink: Mapping[str, tuple[str, ...]]
    """Overrides for `train`, `sft` and `eval`."""

    @property
    def ks(self) -> list[int]:
        return [2**power for power in range(self.samples.bit_length())]

    def runs(self, root: Path) -> Iterator[Run]:
        for method in self.evaluated:
            for seed in self.seeds:
                yield Run(self, root, method, seed)

    def evaluations(self, root: Path) -> Iterator[Evaluated]:
        for seed in self.seeds:
            yield Evaluated(self, root, BASE, seed, 0, MODEL)
        for run in self.runs(root):
            for step in self.evaluated[run.method]:
                yield Evaluated(self, root, run.method, run.seed, step, run.checkpoint(step))


@dataclass(frozen=True)
class Run:
    plan: Plan
    root: Path
    method: str
    seed: int

    @property
    def folder(self) -> Path:
        return self.root / f"{_file_name(self.method)}_seed{self.seed}"

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step_{step:08d}"

    @property
    def result(self) -> Path:
        """Return the path of a checkpoint that exists when the run is done."""
        return self.checkpoint(self.plan.evaluated[self.method][-1])

    def arguments(self) -> list[str]:
        """Return the arguments of `fastsvs` that start or continue the training."""
        command = "sft" if self.method == SFT else "train"
        overrides = [f"run.dir={self.folder}", f"run.seed={self.seed}"]
        steps = f"run.steps={self.plan.evaluated[self.method][-1]}"
        config = CONFIGS / f"{_file_name(self.method)}.yaml"
        return [command, str(config), *overrides, steps, *self.plan.shrink[command]]


@dataclass(frozen=True)
class Evaluated(OnHeldOut):
    """One model on the held-out problems. The base is sampled again for every seed."""

    plan: Plan
    root: Path
    method: str
    seed: int
    step: int
    model: Path

    @property
    def folder(self) -> Path:
        return self.root / "evaluations" / f"{_file_name(self.method)}_seed{self.seed}_step{self.step}"


def _file_name(method: str) -> str:
    return method.lower().replace(" ", "_").replace("-", "_")


_STEPS = (50, 100, 150, 200, 300, 400)
_SMALL = ("data.limit=16", "run.prompts_per_step=4", "run.save_every=1")
PLANS = {
    "tiny": Plan(
        suite="reproduce-tiny",
        seeds=(0, 1, 2),
        evaluated={ON_POLICY: _STEPS, SVS: _STEPS, RLVR: (*_STEPS, 600, 800, 1000), SFT: _STEPS},
        compared=400,
        samples=64,
        shrink={"train": (), "sft": (), "eval": ()},
    ),
    "smoke": Plan(
        suite="reproduce-smoke",
        seeds=(0,),
        evaluated={ON_POLICY: (1,), SVS: (1,), RLVR: (1, 2), SFT: (1,)},
        compared=1,
        samples=4,
        shrink={
            "train": (*_SMALL, "rollout.samples_per_prompt=4", "selfplay.variants_per_context=2"),
            "sft": _SMALL,
            "eval": (f"sets.{HELD_OUT}.data.limit=8",),
        },
    ),
}
