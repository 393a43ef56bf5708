"""Plan of a reproduction: three methods from one base at several seeds, in the regime of configs/reproduce."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.experiments.plan import HELD_OUT, Plan, Run, file_name

CONFIGS = Path("configs/reproduce")
MODEL = Path("models/tiny")
SVS, ON_POLICY, RLVR, SFT = "SvS", "SvS on-policy", "RLVR", "SFT"
"""Names of the methods.

RLVR makes one optimizer step per step. SvS learns from several times as many responses and makes several; on-policy it
makes one.
"""
SELF_PLAY = (SVS, ON_POLICY)
METHODS = (RLVR, *SELF_PLAY, SFT)


@dataclass(frozen=True)
class Reproduction(Plan):
    grid: tuple[int, ...]
    """Steps at which each method is evaluated, as far as its run goes."""
    compared: int
    """Step, evaluated in all methods, at which they are compared."""

    def base(self, root: Path) -> Path:
        return MODEL

    def recipe(self, method: str, root: Path) -> list[str]:
        return ["sft" if method == SFT else "train", str(CONFIGS / f"{file_name(method)}.yaml")]

    def evaluated(self, run: Run) -> list[int]:
        return [step for step in self.grid if step <= run.steps]


_SMALL = ("data.limit=16", "run.prompts_per_step=4", "run.save_every=1")
PLANS = {
    "tiny": Reproduction(
        suite="reproduce-tiny",
        seeds=(0, 1, 2),
        steps={ON_POLICY: 400, SVS: 400, RLVR: 1000, SFT: 400},
        grid=(50, 100, 150, 200, 300, 400, 600, 800, 1000),
        compared=400,
        samples=64,
        shrink={"train": (), "sft": (), "eval": ()},
    ),
    "smoke": Reproduction(
        suite="reproduce-smoke",
        seeds=(0,),
        steps={ON_POLICY: 1, SVS: 1, RLVR: 2, SFT: 1},
        grid=(1, 2),
        compared=1,
        samples=4,
        shrink={
            "train": (*_SMALL, "rollout.samples_per_prompt=4", "selfplay.variants_per_context=2"),
            "sft": _SMALL,
            "eval": (f"sets.{HELD_OUT}.data.limit=8",),
        },
    ),
}
