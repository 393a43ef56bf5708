"""The folder of an evaluation: the name of every file in it. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SAMPLES = ".samples.jsonl"
"""Ending of the files of answers; before it stands the name of the set."""
TAKEN = ("environment", "inputs", "model", "summary")
"""Names that no set may have: `NAME.json` is a file of the folder's own."""


@dataclass(frozen=True, slots=True)
class EvaluationLayout:
    """The places of an evaluation's files. They need not be there."""

    root: Path

    @property
    def config(self) -> Path:
        """Return what was asked, resolved."""
        return self.root / "config.yaml"

    @property
    def model(self) -> Path:
        """Return the record of what was asked: path and step of the model."""
        return self.root / "model.json"

    @property
    def environment(self) -> Path:
        """Return the record of machine, versions, commit and command."""
        return self.root / "environment.json"

    @property
    def inputs(self) -> Path:
        """Return the digests of problems, prompts and weights."""
        return self.root / "inputs.json"

    @property
    def summary(self) -> Path:
        """Return the figures of all sets, which are written when the evaluation is done."""
        return self.root / "summary.json"

    def samples(self, name: str) -> Path:
        """Return the answers of a set, one object a problem."""
        return self.root / f"{name}{SAMPLES}"

    def tokens(self, name: str) -> Path:
        """Return the tokens of the answers to a share of a set's problems, one object a problem."""
        return self.root / f"{name}.tokens.jsonl"

    def figures(self, name: str) -> Path:
        """Return the figures of a set, which are written when the set is done."""
        return self.root / f"{name}.json"

    def sets(self) -> list[str]:
        """Return the names of the sets that have answers, sorted."""
        return sorted(path.name.removesuffix(SAMPLES) for path in self.root.glob(f"*{SAMPLES}"))

    def records(self) -> list[Path]:
        """Return the files that say how the evaluation went, as far as they are there."""
        single = (self.config, self.model, self.environment)
        by_set = (file(name) for name in self.sets() for file in (self.samples, self.tokens, self.figures))
        return [file for file in (*single, *by_set) if file.is_file()]


def is_evaluation(path: Path) -> bool:
    """Return whether a folder is one that `fastsvs eval` wrote."""
    return EvaluationLayout(path).model.is_file()
