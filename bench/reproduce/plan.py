"""Plan of a reproduction: methods from one base at several seeds, in one regime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.experiments.jobs import Phase
from bench.experiments.plan import CONFIGS, HELD_OUT, Plan, Run, file_name
from bench.reproduce.gates import HEADROOM, GatedBase, GivenBase
from bench.reproduce.regimes import VALIDATION, VALIDATION_SAMPLES, Regime
from fastsvs.errors import UserError

SVS, ON_POLICY, SVS_UNFILTERED, SVS_BUDGET = "SvS", "SvS on-policy", "SvS unfiltered", "SvS budget"
AGAIN, RLVR, UNFILTERED, SFT = "asked again", "RLVR", "RLVR unfiltered", "SFT"
"""Names of the methods; `configs/reproduce` has a file for each.

RLVR makes one optimizer step per step. SvS learns from several times as many responses and makes several; on-policy it
makes one, as do SvS unfiltered and with a budget, and the method that asks problems again.
"""
SELF_PLAY = (ON_POLICY, SVS, SVS_UNFILTERED, SVS_BUDGET)
"""Methods that write problems."""
METHODS = (*SELF_PLAY, AGAIN, RLVR, UNFILTERED, SFT)
"""All methods that the hypotheses of a regime are about."""
TRAIN = "train"
"""Name of the set of problems that methods are trained on."""
TRAIN_SAMPLES = 8


@dataclass(frozen=True)
class Reproduction(Plan):
    regime: Regime
    grid: tuple[int, ...]
    """Steps at which each method is evaluated, as far as its run goes."""
    compared: int
    """Step, evaluated in all methods, at which they are compared."""
    planned_seeds: int
    """Number of seeds that were stated beforehand; a page of fewer says so."""

    def __post_init__(self) -> None:
        if RLVR not in self.steps:
            raise UserError(f"--methods: {self.suite} compares methods with {RLVR!r}, which has to be among them")

    @property
    def self_play(self) -> list[str]:
        """Return the methods of this plan that write problems."""
        return [method for method in self.steps if method in SELF_PLAY]

    def base(self, root: Path) -> Path:
        return self.regime.model(root)

    def recipe(self, method: str, root: Path) -> list[str]:
        command = "sft" if method == SFT else "train"
        return [
            command,
            str(CONFIGS / f"{file_name(method)}.yaml"),
            *self.regime.overrides(root, self.regime.rate(root)),
        ]

    def evaluated(self, run: Run) -> list[int]:
        return [step for step in self.grid if step <= run.steps]

    def phases(self, root: Path) -> Iterator[Phase]:
        yield from self.regime.phases(root)
        yield from super().phases(root)

    @property
    def evaluation(self) -> Path:
        return CONFIGS / "splits_eval.yaml"

    @property
    def sets(self) -> Mapping[str, int]:
        samples = min(self.samples, VALIDATION_SAMPLES)
        return {HELD_OUT: self.samples, VALIDATION: samples, TRAIN: min(self.samples, TRAIN_SAMPLES)}


def _steps(self_play: int, rlvr: int, writing: Sequence[str] = SELF_PLAY) -> dict[str, int]:
    """Return the steps of the methods in `writing` and of all others, with those that take longest first."""
    return {
        **dict.fromkeys((*writing, AGAIN), self_play),
        **dict.fromkeys((RLVR, UNFILTERED), rlvr),
        SFT: self_play,
    }


A = Regime("a", base=GivenBase(Path("models/tiny")), problems=256, rates=(2e-4, 3e-4, 5e-4))
B = replace(A, name="b", base=GatedBase(Path("configs/tiny_misled_sft.yaml"), HEADROOM, A.spare_seed, A.problems))
_SMALL = ("run.prompts_per_step=4", "run.save_every=1")
_SMALL_ROLLOUTS = (*_SMALL, "rollout.samples_per_prompt=4", "selfplay.variants_per_context=2")
_TINY = Reproduction(
    suite="reproduce-a",
    seeds=(0, 1, 2),
    steps=_steps(self_play=300, rlvr=800),
    samples=64,
    shrink={"train": (), "sft": (), "eval": ()},
    regime=A,
    grid=(50, 100, 150, 200, 300, 400, 600, 800),
    compared=300,
    planned_seeds=3,
)
PLANS = {
    "tiny": _TINY,
    "headroom": replace(_TINY, suite="reproduce-b", regime=B),
    "quick": replace(
        _TINY,
        suite="reproduce-quick",
        seeds=(0,),
        steps=_steps(self_play=100, rlvr=300, writing=(ON_POLICY, SVS)),
        samples=16,
        regime=replace(A, rates=(3e-4,)),
        grid=(50, 100, 200, 300),
        compared=100,
    ),
    "smoke": Reproduction(
        suite="reproduce-smoke",
        seeds=(0,),
        steps=_steps(self_play=1, rlvr=2),
        samples=4,
        shrink={
            "train": _SMALL_ROLLOUTS,
            "sft": _SMALL,
            "eval": tuple(f"sets.{name}.data.limit=8" for name in (HELD_OUT, VALIDATION, TRAIN)),
        },
        regime=replace(A, problems=16, pilot_grid=(1,), pilot_shrink=_SMALL_ROLLOUTS),
        grid=(1, 2),
        compared=1,
        planned_seeds=3,
    ),
}
