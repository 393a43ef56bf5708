"""A run folder as a report sees it, with whatever of its files is there yet.

It reads a run that is still going on, one that was killed, one of `fastsvs sft` and one written by other programs:
absent files and names are absent figures. It imports nothing that loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastsvs.config import flatten
from fastsvs.stored_run import open_run

Number = float | int | None
LARGEST = sys.float_info.max
METHODS = {"svs": "SvS", "none": "RLVR"}
"""Usual names of the methods, by `selfplay.stage`."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """One run as its folder holds it."""

    path: Path
    config: dict[str, Any]
    """Values of config.yaml by dotted key."""
    environment: dict[str, Any]
    metrics: list[dict[str, Number]]
    """Rows by step. Names of supervised fine-tuning have the prefix `policy/`, like those of training."""
    evaluations: dict[int, dict[str, Any]] = field(default_factory=dict)
    samples: dict[int, Path] = field(default_factory=dict)
    """Files of responses, by step."""
    finished: bool = False

    @property
    def method(self) -> str:
        if self.supervised:
            return "SFT"
        stage = self.config.get("selfplay.stage")
        return self.path.name if stage is None else METHODS.get(str(stage), str(stage))

    @property
    def supervised(self) -> bool:
        return is_supervised(self.config)

    @property
    def seed(self) -> int | None:
        seed = self.config.get("run.seed")
        return seed if isinstance(seed, int) else None

    @property
    def steps(self) -> int:
        """Return the last step that has metrics."""
        return int(self.metrics[-1]["step"] or 0) if self.metrics else 0

    @property
    def planned_steps(self) -> int | None:
        steps = self.config.get("run.steps")
        return steps if isinstance(steps, int) else None


def read_run(path: Path) -> RunFiles:
    """Read a run folder. Raises UserError for a folder that holds no run, or for files that do not belong to a run."""
    run = open_run(path)
    config = flatten(run.config())
    return RunFiles(
        path=path,
        config=config,
        environment=run.environment(),
        metrics=_metrics(run.metrics(), is_supervised(config)),
        evaluations={step: _finite(result) for step, result in run.evaluations().items()},
        samples=run.sample_files(),
        finished=run.layout.summary.is_file(),
    )


def is_supervised(config: Mapping[str, Any]) -> bool:
    """Return whether it is a configuration of `fastsvs sft`, which has a policy but no rollouts."""
    return bool(config) and not any(key.startswith("rollout.") for key in config)


def _metrics(written: Sequence[Mapping[str, Any]], supervised: bool) -> list[dict[str, Number]]:
    """Return the rows by step, the later of two rows of one step, with values that are not finite numbers as None."""
    rows: dict[int, dict[str, Number]] = {}
    for position, row in enumerate(written, 1):
        step = _number(row.get("step"))
        step = position if step is None else int(step)
        named = {_name(name, supervised): _number(value) for name, value in row.items()}
        rows[step] = {**named, "step": step}
    return [rows[step] for step in sorted(rows)]


def _name(name: str, supervised: bool) -> str:
    bare = supervised and name != "step" and not name.startswith(("policy/", "time/", "dynamics/"))
    return f"policy/{name}" if bare else name


def _number(value: Any) -> Number:
    return value if isinstance(value, int | float) and abs(value) <= LARGEST else None


def _finite(value: Any) -> Any:
    """Return a value of JSON with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return _number(value) if isinstance(value, int | float) else value
