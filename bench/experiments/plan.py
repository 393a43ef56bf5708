"""Plan of an experiment: methods trained from one base at several seeds, and their checkpoints on held-out problems.

A subclass says how its methods are trained and which checkpoints are evaluated. Every piece of work knows its call of
`fastsvs` and the file that exists when it is done, so that what was killed continues.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench.experiments.jobs import Phase, Work
from fastsvs.files import read_jsonl

BASE = "base"
"""Name of the model that all methods begin with."""
CONFIGS = Path("configs/reproduce")
"""Folder of what experiments on the tiny task share."""
EVALUATION = CONFIGS / "eval.yaml"
HELD_OUT = "heldout"
"""Name of the set in EVALUATION."""


@dataclass(frozen=True)
class Plan:
    suite: str
    seeds: tuple[int, ...]
    steps: Mapping[str, int]
    """Number of steps of each method; those that take longest come first."""
    samples: int
    """Number of responses to each held-out problem, a power of two."""
    shrink: Mapping[str, tuple[str, ...]]
    """Overrides for `train`, `sft` and `eval`."""

    def base(self, root: Path) -> Path:
        """Return the folder of the model that all methods begin with."""
        raise NotImplementedError

    def recipe(self, method: str, root: Path) -> list[str]:
        """Return the command, configuration and overrides that make up a method."""
        raise NotImplementedError

    def evaluated(self, run: Run) -> Iterable[int]:
        """Return the steps whose checkpoints are evaluated. The run is finished."""
        raise NotImplementedError

    def phases(self, root: Path) -> Iterator[Phase]:
        """Yield all work. A phase may read what those before it have made."""
        yield Phase(self.chains(root))

    def chains(self, root: Path) -> Iterator[Iterable[Work]]:
        """Yield every run with its evaluations after it, seed by seed, so that what is cut short has whole seeds."""
        for seed in self.seeds:
            yield [self.of_base(root, seed)]
            yield from (self._chain(run) for run in self.runs(root) if run.seed == seed)

    @property
    def evaluation(self) -> Path:
        """Return the configuration of evaluations."""
        return EVALUATION

    @property
    def sets(self) -> Mapping[str, int]:
        """Return the number of responses to each problem of every set of `evaluation`."""
        return {HELD_OUT: self.samples}

    @property
    def ks(self) -> list[int]:
        return powers(self.samples)

    def runs(self, root: Path) -> list[Run]:
        """Return the runs, seed by seed."""
        return [Run(self, root, method, seed) for seed in self.seeds for method in self.steps]

    def evaluations(self, root: Path) -> Iterator[Evaluated]:
        """Yield the evaluations of the base and of finished runs. The base is sampled again for every seed."""
        yield from (self.of_base(root, seed) for seed in self.seeds)
        for run in self.runs(root):
            yield from self.of_run(run)

    def of_base(self, root: Path, seed: int) -> Evaluated:
        return Evaluated(self, root, BASE, seed, 0, self.base(root))

    def of_run(self, run: Run) -> Iterator[Evaluated]:
        """Yield the evaluations of a finished run."""
        for step in self.evaluated(run):
            yield Evaluated(self, run.root, run.method, run.seed, step, run.checkpoint(step))

    def _chain(self, run: Run) -> Iterator[Work]:
        yield run
        yield from self.of_run(run)


@dataclass(frozen=True)
class Run:
    """The training of one method at one seed."""

    plan: Plan
    root: Path
    method: str
    seed: int

    @property
    def steps(self) -> int:
        return self.plan.steps[self.method]

    @property
    def folder(self) -> Path:
        return self.root / f"{file_name(self.method)}_seed{self.seed}"

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step_{step:08d}"

    @property
    def result(self) -> Path:
        return self.checkpoint(self.steps)

    def arguments(self) -> list[str]:
        command, *recipe = self.plan.recipe(self.method, self.root)
        own = [f"run.dir={self.folder}", f"run.seed={self.seed}", f"run.steps={self.steps}"]
        return [command, *recipe, *own, *self.plan.shrink[command]]

    def metrics(self) -> list[dict[str, Any]]:
        """Return one row for each step."""
        return read_jsonl(self.folder / "metrics.jsonl")

    def responses(self) -> list[int]:
        """Return the number of responses that the policy has sampled up to each step."""
        metrics = self.metrics()
        return list(accumulate(sum(int(row[name]) for name in row if name.startswith("samples/")) for row in metrics))


@dataclass(frozen=True)
class Evaluated:
    """One model on the held-out problems: one call of `fastsvs eval`, and the files that it leaves."""

    plan: Plan
    root: Path
    method: str
    seed: int
    step: int
    model: Path

    @property
    def folder(self) -> Path:
        return self.root / "evaluations" / f"{file_name(self.method)}_seed{self.seed}_step{self.step}"

    @property
    def result(self) -> Path:
        return self.folder / "summary.json"

    def figures(self, name: str = HELD_OUT) -> Path:
        return self.folder / f"{name}.json"

    def samples(self, name: str = HELD_OUT) -> Path:
        """Return the path of the samples file, with one line for each problem."""
        return self.folder / f"{name}.samples.jsonl"

    def arguments(self) -> list[str]:
        overrides = [f"model.path={self.model}", f"output={self.folder}", f"seed={self.seed}"]
        for name, samples in self.plan.sets.items():
            overrides += [f"sets.{name}.samples={samples}", f"sets.{name}.k={powers(samples)}"]
        return ["eval", str(self.plan.evaluation), *overrides, *self.plan.shrink["eval"]]


def powers(samples: int) -> list[int]:
    """Return the powers of two up to `samples`, the values of k."""
    return [2**power for power in range(samples.bit_length())]


def file_name(method: str) -> str:
    return "_".join(method.lower().replace("+", " ").replace("-", " ").split())
