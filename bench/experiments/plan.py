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

from bench.experiments.jobs import Phase
from fastsvs.files import read_jsonl

BASE = "base"
"""Name of the model that all methods begin with."""
EVALUATION = Path("configs/reproduce/eval.yaml")
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
        yield Phase(self.runs(root))
        yield Phase(self.evaluations(root))

    @property
    def ks(self) -> list[int]:
        return [2**power for power in range(self.samples.bit_length())]

    def runs(self, root: Path) -> list[Run]:
        """Return the runs, seed by seed."""
        return [Run(self, root, method, seed) for seed in self.seeds for method in self.steps]

    def evaluations(self, root: Path) -> Iterator[Evaluated]:
        """Yield the evaluations of the base and of finished runs. The base is sampled again for every seed."""
        for seed in self.seeds:
            yield Evaluated(self, root, BASE, seed, 0, self.base(root))
        for run in self.runs(root):
            for step in self.evaluated(run):
                yield Evaluated(self, root, run.method, run.seed, step, run.checkpoint(step))


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

    @property
    def figures(self) -> Path:
        return self.folder / f"{HELD_OUT}.json"

    @property
    def samples(self) -> Path:
        """Return the path of the samples file, with one line for each problem."""
        return self.folder / f"{HELD_OUT}.samples.jsonl"

    def arguments(self) -> list[str]:
        overrides = [f"model.path={self.model}", f"output={self.folder}", f"seed={self.seed}"]
        sampling = [f"sets.{HELD_OUT}.samples={self.plan.samples}", f"sets.{HELD_OUT}.k={self.plan.ks}"]
        return ["eval", str(EVALUATION), *overrides, *sampling, *self.plan.shrink["eval"]]


def file_name(method: str) -> str:
    return "_".join(method.lower().replace("+", " ").replace("-", " ").split())
