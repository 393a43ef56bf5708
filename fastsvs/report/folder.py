"""Reading of a run folder, with whatever of its files is there yet.

It reads a run that is still going on, one that was killed, one of `fastsvs sft` and one written by other programs:
absent files and names are absent figures. It imports nothing that loads torch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fastsvs.config import flatten
from fastsvs.errors import UserError

Number = float | int | None
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
        return self.path.name if stage is None else METHODS.get(stage, str(stage))

    @property
    def supervised(self) -> bool:
        return is_supervised(self.config)

    @property
    def seed(self) -> int | None:
        return self.config.get("run.seed")

    @property
    def steps(self) -> int:
        """Return the last step that has metrics."""
        return int(self.metrics[-1]["step"] or 0) if self.metrics else 0

    @property
    def planned_steps(self) -> int | None:
        return self.config.get("run.steps")


def read_run(path: Path) -> RunFiles:
    """Read a run folder. Raises UserError for a folder that holds no run, or for files that do not belong to a run."""
    if not any((path / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise UserError(f"{path} is no run folder: it has neither config.yaml nor metrics.jsonl")
    config = flatten(_mapping(path / "config.yaml"))
    return RunFiles(
        path=path,
        config=config,
        environment=_mapping(path / "environment.json"),
        metrics=_metrics(path / "metrics.jsonl", is_supervised(config)),
        evaluations={step: _mapping(file) for step, file in _by_step(path / "evaluations", "json").items()},
        samples=_by_step(path / "samples", "jsonl"),
        finished=(path / "summary.json").is_file(),
    )


def is_supervised(config: Mapping[str, Any]) -> bool:
    """Return whether it is a configuration of `fastsvs sft`, which has a policy but no rollouts."""
    return bool(config) and not any(key.startswith("rollout.") for key in config)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a jsonl file, without a last line that is cut off or is still being written.

    Raises UserError for a file that cannot be read or a line that is no JSON object; a missing file has no rows.
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.endswith("\n") and line.strip():
                    yield _object(line, f"{path}, line {number}")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _metrics(path: Path, supervised: bool) -> list[dict[str, Number]]:
    """Return the rows by step, the later of two rows of one step, with values that are not finite numbers as None."""
    rows: dict[int, dict[str, Number]] = {}
    for position, row in enumerate(read_rows(path), 1):
        step = _number(row.get("step"))
        step = position if step is None else int(step)
        named = {_name(name, supervised): _number(value) for name, value in row.items()}
        rows[step] = {**named, "step": step}
    return [rows[step] for step in sorted(rows)]


def _name(name: str, supervised: bool) -> str:
    bare = supervised and name != "step" and not name.startswith(("policy/", "time/", "dynamics/"))
    return f"policy/{name}" if bare else name


def _number(value: Any) -> Number:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _by_step(folder: Path, suffix: str) -> dict[int, Path]:
    found = {
        int(match[1]): path
        for path in folder.glob(f"step_*.{suffix}")
        if (match := re.fullmatch(rf"step_(\d+)\.{suffix}", path.name))
    }
    return dict(sorted(found.items()))


def _mapping(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML or JSON file, empty when there is no file. Raises UserError for a file that holds
    none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if path.suffix == ".json":
        return _object(text, str(path))
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} does not hold a configuration")
    return tree


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object")
    return value
