"""The conditions that all methods of a reproduction share, and the choice of the learning rate among them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.experiments.jobs import Phase
from bench.experiments.plan import CONFIGS, Plan, Run
from bench.reproduce.gates import Base

VALIDATION = "validation"
"""Name of the set by which checkpoints and the learning rate are chosen."""
VALIDATION_SAMPLES = 16


@dataclass(frozen=True)
class Regime:
    """A base with headroom or without, the problems to train on, and the learning rates to choose among."""

    name: str
    base: Base
    problems: int
    """Number of problems to train on."""
    rates: tuple[float, ...]
    """Learning rates among which the pilot chooses; of a single one nothing is tried."""
    spare_seed: int = 100
    """Seed of the pilot, on which nothing else is trained."""
    pilot_grid: tuple[int, ...] = (50, 100, 150, 200)
    """Steps of the pilot's checkpoints; the last is its end."""
    pilot_shrink: tuple[str, ...] = ()
    """Overrides of the pilot's training."""

    def model(self, root: Path) -> Path:
        """Return the folder of the base."""
        return self.base.model(root)

    def overrides(self, root: Path, rate: float) -> list[str]:
        """Return what the regime changes in the configuration of every run."""
        return [
            f"model.path={self.model(root)}",
            f"data.limit={self.problems}",
            f"policy.optimizer.learning_rate={rate}",
        ]

    def rate(self, root: Path) -> float:
        """Return the learning rate of all methods: that with which RLVR solves most validation problems in one try, at
        the best of the pilot's checkpoints. The pilot is finished."""
        if len(self.rates) == 1:
            return self.rates[0]
        best = self.pilot_scores(root)
        return max(self.rates, key=lambda rate: max(best[rate].values()))

    def pilot_scores(self, root: Path) -> dict[float, dict[int, float]]:
        """Return pass@1 on the validation problems by learning rate and step; nothing where there is no choice."""
        pilot, scores = self._pilot(root), {}
        if len(self.rates) == 1:
            return scores
        for run in pilot.runs(root / "pilot"):
            found = {each.step: json.loads(each.figures(VALIDATION).read_text()) for each in pilot.of_run(run)}
            scores[pilot.rates[run.method]] = {step: figures["pass@1"]["mean"] for step, figures in found.items()}
        return scores

    def phases(self, root: Path) -> Iterator[Phase]:
        """Yield what comes before the methods: the making of the base, and the pilot, RLVR alone with each learning
        rate."""
        yield from self.base.phases(root)
        if len(self.rates) > 1:
            yield from self._pilot(root).phases(root / "pilot")

    def _pilot(self, root: Path) -> Pilot:
        rates = {f"RLVR {rate * 1e6:.0f}e-6": rate for rate in self.rates}
        return Pilot(
            suite="pilot",
            seeds=(self.spare_seed,),
            steps=dict.fromkeys(rates, self.pilot_grid[-1]),
            samples=VALIDATION_SAMPLES,
            shrink={"train": self.pilot_shrink, "eval": ()},
            regime=self,
            rates=rates,
            whole=root,
        )


@dataclass(frozen=True)
class Pilot(Plan):
    """RLVR with several learning rates on the spare seed, evaluated on validation problems alone."""

    regime: Regime
    rates: Mapping[str, float]
    """Learning rates by the names of the methods."""
    whole: Path
    """Folder of the reproduction that the pilot is part of."""

    def base(self, root: Path) -> Path:
        return self.regime.model(self.whole)

    def recipe(self, method: str, root: Path) -> list[str]:
        return ["train", str(CONFIGS / "rlvr.yaml"), *self.regime.overrides(self.whole, self.rates[method])]

    def evaluated(self, run: Run) -> tuple[int, ...]:
        return self.regime.pilot_grid

    @property
    def evaluation(self) -> Path:
        return CONFIGS / "validation_eval.yaml"

    @property
    def sets(self) -> dict[str, int]:
        return {VALIDATION: self.samples}
