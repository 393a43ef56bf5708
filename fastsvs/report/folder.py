"""A run folder as a report sees it, with whatever of its files is there yet.

It reads a run that is still going on, one that was killed, one of `fastsvs sft` and one written by other programs:
absent files and names are absent figures, and what is spoiled is left out with a notice. It imports nothing that loads
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastsvs.config import flatten
from fastsvs.report.notices import Notices, Number
from fastsvs.stored_run import open_run

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
    tokens: dict[int, Path] = field(default_factory=dict)
    """Files of tokens, by step; not every step need have one."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Plan of what the run takes; empty for one that recorded no plan."""
    answers: dict[int, Path] = field(default_factory=dict)
    """Files of the evaluations' answers, by step."""
    answer_tokens: dict[int, Path] = field(default_factory=dict)
    """Files of the tokens of these answers, by step; not every evaluation need have one."""
    finished: bool = False
    notices: tuple[str, ...] = ()
    """Lines about what of these files was left out."""

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
    """Read a run folder. Raises UserError for a folder that holds no run."""
    run, notices = open_run(path), Notices()
    layout = run.layout
    config = flatten(notices.mapping(layout.config))
    metrics = _metrics(notices, layout.metrics, is_supervised(config))
    evaluations = {step: notices.finite(notices.mapping(file), file) for step, file in run.evaluation_files().items()}
    return RunFiles(
        path=path,
        config=config,
        environment=notices.mapping(layout.environment),
        metrics=metrics,
        evaluations=evaluations,
        samples=run.sample_files(),
        tokens=run.token_files(),
        plan=notices.finite(notices.mapping(layout.plan), layout.plan),
        answers=run.evaluation_sample_files(),
        answer_tokens=run.evaluation_token_files(),
        finished=layout.summary.is_file(),
        notices=tuple(notices.lines()),
    )


def is_supervised(config: Mapping[str, Any]) -> bool:
    """Return whether it is a configuration of `fastsvs sft`, which has a policy but no rollouts."""
    return bool(config) and not any(key.startswith("rollout.") for key in config)


def _metrics(notices: Notices, path: Path, supervised: bool) -> list[dict[str, Number]]:
    """Return the rows by step, the later of two rows of one step, with values that are no finite numbers as None."""
    rows: dict[int, dict[str, Number]] = {}
    for position, row in enumerate(notices.rows(path), 1):
        values = {name: notices.number(value, path, name) for name, value in row.items()}
        step = values.get("step")
        if step is None:
            notices.say(path, "steps", f"{path}: row {position} has no step, and counts as step {position}")
        step = position if step is None else int(step)
        if step in rows:
            notices.say(path, "twice", f"{path}: step {step} stands there twice, and the last one counts")
        rows[step] = {**{_name(name, supervised): value for name, value in values.items()}, "step": step}
    return [rows[step] for step in sorted(rows)]


def _name(name: str, supervised: bool) -> str:
    bare = supervised and name != "step" and not name.startswith(("policy/", "time/", "dynamics/"))
    return f"policy/{name}" if bare else name
