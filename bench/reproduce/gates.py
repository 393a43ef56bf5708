"""The base of a reproduction: a folder, or a base that it trains for itself within bounds that are set beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

from bench.experiments.jobs import Phase
from bench.experiments.plan import CONFIGS, HELD_OUT, Plan, Run, powers
from bench.reproduce.written import Sample, are_sound, written
from fastsvs.errors import UserError
from fastsvs.files import read_jsonl

SOLVED, RIGHT, LUCKY = "held-out problems solved within all tries", "variants that are right", "contexts that are lucky"


@dataclass(frozen=True)
class Bounds:
    """Shares between which a figure must lie."""

    least: float = 0.0
    most: float = 1.0

    def keep(self, share: float) -> bool:
        return self.least <= share <= self.most

    def __str__(self) -> str:
        if self.most == 1:
            return f"at least {100 * self.least:.0f}%"
        if self.least == 0:
            return f"at most {100 * self.most:.0f}%"
        return f"{100 * self.least:.0f} to {100 * self.most:.0f}%"


HEADROOM = {SOLVED: Bounds(0.80, 0.92), RIGHT: Bounds(least=0.90), LUCKY: Bounds(most=0.05)}
"""Bounds of a base that has something to learn which sampling shows rarely, and that writes problems to learn from."""


class Base(Protocol):
    """The model that all methods of a reproduction start from."""

    @property
    def name(self) -> str:
        """Return what a page calls the base, in Markdown."""

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        """Return the bounds of the figures of the base."""

    def model(self, root: Path) -> Path:
        """Return the folder of the base, in a reproduction that is kept in `root`."""

    def phases(self, root: Path) -> Iterator[Phase]:
        """Yield the work before any method can start from the base."""

    def figures(self, root: Path) -> Mapping[str, float]:
        """Return the shares that the bounds are about. The work is finished."""


@dataclass(frozen=True)
class GivenBase:
    """A base that is there beforehand."""

    path: Path

    @property
    def name(self) -> str:
        return f"`{self.path}`"

    @property
    def bounds(self) -> Mapping[str, Bounds]:
        return {}

    def model(self, _root: Path) -> Path:
        return self.path

    def phases(self, _root: Path) -> Iterator[Phase]:
        yield from ()

    def figures(self, _root: Path) -> Mapping[str, float]:
        return {}


@dataclass(frozen=True)
class GatedBase:
    """A base that the reproduction trains, and tries before it trains anything from it."""

    config: Path
    """Configuration of the supervised training that makes the base."""
    bounds: Mapping[str, Bounds]
    seed: int
    """Seed of the trial, on which nothing is trained that is compared."""
    problems: int
    """Number of training problems; in the trial SvS takes one step on all of them."""
    samples: int = 64
    """Number of responses to each held-out problem."""

    @property
    def name(self) -> str:
        return f"the base of `{self.config}`"

    def model(self, root: Path) -> Path:
        return _Training(self.config, root).model

    def phases(self, root: Path) -> Iterator[Phase]:
        """Yield the work that trains and tries the base. Raises UserError when it is done and a bound is not kept."""
        yield Phase([[_Training(self.config, root)]])
        yield from self._trial(root).phases(_folder(root))
        found = self.figures(root)
        missed = [
            f"{name}: {100 * found[name]:.1f}%, which should be {bounds}"
            for name, bounds in self.bounds.items()
            if not bounds.keep(found[name])
        ]
        if missed:
            raise UserError(f"{self.model(root)} is not the base that the experiment is about. {'; '.join(missed)}")

    def figures(self, root: Path) -> dict[str, float]:
        trial = self._trial(root)
        held_out = trial.of_base(_folder(root), self.seed).figures(HELD_OUT)
        [run] = trial.runs(_folder(root))
        samples = list(read_jsonl(run.folder / "samples" / "step_1.jsonl"))
        solved = json.loads(held_out.read_text(encoding="utf-8"))[f"pass@{powers(self.samples)[-1]}"]["mean"]
        return {SOLVED: solved, **_of_writing(samples)}

    def _trial(self, root: Path) -> _Trial:
        return _Trial(
            suite="trial",
            seeds=(self.seed,),
            steps={"one step of SvS": 1},
            samples=self.samples,
            shrink={"train": (), "eval": ()},
            model=self.model(root),
            problems=self.problems,
        )


@dataclass(frozen=True)
class _Training:
    """The call of `fastsvs sft` that makes the base."""

    config: Path
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "base"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def result(self) -> Path:
        return self.model / "model.safetensors"

    def arguments(self) -> list[str]:
        return ["sft", str(self.config), f"run.dir={self.folder}", f"export={self.model}"]


@dataclass(frozen=True)
class _Trial(Plan):
    """The base on held-out problems, and one step of SvS from it."""

    model: Path
    problems: int

    def base(self, root: Path) -> Path:
        return self.model

    def recipe(self, method: str, root: Path) -> list[str]:
        own = [f"model.path={self.model}", f"data.limit={self.problems}", f"run.prompts_per_step={self.problems}"]
        return ["train", str(CONFIGS / "svs_on_policy.yaml"), *own]

    def evaluated(self, run: Run) -> tuple[int, ...]:
        return ()


def _of_writing(samples: Sequence[Sample]) -> dict[str, float]:
    right, sound = [variant.right for variant in written(samples)], are_sound(samples)
    return {RIGHT: fmean(right) if right else 0.0, LUCKY: 1 - fmean(sound) if sound else 1.0}


def _folder(root: Path) -> Path:
    return root / "trial"
