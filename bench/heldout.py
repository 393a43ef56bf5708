"""Evaluation of a model on the held-out problems of the tiny task: one call of `fastsvs eval`, and the files it
leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONFIG = Path("configs/reproduce/eval.yaml")
HELD_OUT = "heldout"
"""Name of the set in CONFIG."""


class OnHeldOut:
    """The common part of evaluations. A subclass says which model it is and where its folder is."""

    plan: Any
    """Plan with `samples`, `ks` and `shrink`."""
    seed: int
    model: Path
    folder: Path

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
        return ["eval", str(CONFIG), *overrides, *sampling, *self.plan.shrink["eval"]]
