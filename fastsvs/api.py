"""The Python interface: read runs, evaluate models, and train in one call or step by step.

    from fastsvs import api

    with api.Trainer("fastsvs:tiny_svs", run={"dir": "runs/mine", "steps": 10}) as trainer:
        for row in trainer.steps():
            print(row["step"], row["policy/entropy"])
    print(api.load_run("runs/mine").table())

A configuration is a YAML file or `fastsvs:NAME`; keyword arguments are sections whose keys go over it. Under torchrun
every process makes the same calls. What is wrong outside the program raises `fastsvs.errors.UserError`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsvs import config, startup
from fastsvs.errors import UserError
from fastsvs.files import read_jsonl, write_jsonl
from fastsvs.stored_run import StoredRun, open_run
from fastsvs.variables import whole_number

if TYPE_CHECKING:
    from fastsvs.policy import Policy
    from fastsvs.training import Session

__all__ = ["Evaluation", "StoredRun", "Trainer", "evaluate", "load_run", "train"]

Row = dict[str, Any]
SET = "problems"
"""Name of the only set of an evaluation here."""
OUTSIDE = "a Trainer works within `with Trainer(...) as trainer:` alone"


def load_run(path: str | Path) -> StoredRun:
    """Return what the run folder at `path` holds, while the run goes on too: configuration, metrics, samples,
    evaluations and checkpoints. Raises UserError for a folder that holds no run. Torch is not loaded."""
    return open_run(Path(path))


def train(path: str | Path, on_step: Callable[[Row], object] | None = None, **sections: Mapping[str, Any]) -> StoredRun:
    """Train by the configuration at `path`, resuming what the run folder holds, and return the run.

    `on_step` gets the metrics of each step; where it returns True, the run is saved and ends there. Raises as `Trainer`
    does.
    """
    with Trainer(path, **sections) as trainer:
        for row in trainer.steps():
            if on_step is not None and on_step(row) is True:
                break
        return trainer.run


class Trainer:
    """A training run whose steps the caller takes.

    Within `with`, `steps` yields the metrics of each step when it is logged, saved where that is due, and evaluated.
    Whoever leaves before the last step leaves a run that is saved, and that the same configuration goes on with; after
    an exception it goes on from its last checkpoint. SIGTERM and SIGUSR1 save the run and raise
    `fastsvs.errors.Preempted`, where the process's first thread trains.
    """

    def __init__(self, path: str | Path, **sections: Mapping[str, Any]) -> None:
        """Read the configuration at `path` with `sections` over it. Raises UserError with every fault in it."""
        self.job = config.load(config.TrainJob, path, sections=sections)
        self._context: AbstractContextManager[Session] | None = None
        self._session: Session | None = None
        self._steps: Generator[Row] | None = None
        self._done: int | None = None
        """Number of steps that are done, once one was taken here."""

    def __enter__(self) -> Trainer:
        if self._context is not None:
            raise RuntimeError("this Trainer is at work: leave its `with` before it begins another")
        context = self._open()
        self._session = context.__enter__()
        self._context, self._steps, self._done = context, self._take(), None
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        context, self._context, self._session, self._steps = self._context, None, None, None
        return context.__exit__(*exception) if context else None

    @property
    def session(self) -> Session:
        """Return everything that the run holds open, such as stage, sampler, verifier and engine. Raises RuntimeError
        outside of `with`."""
        if self._session is None:
            raise RuntimeError(OUTSIDE)
        return self._session

    @property
    def policy(self) -> Policy:
        """Return the policy. Assigning `trainer.policy.learning_rate` sets the peak of its schedule."""
        return self.session.policy

    @property
    def run(self) -> StoredRun:
        """Return the contents of the run folder by now."""
        return StoredRun(Path(self.job.run.dir))

    def steps(self) -> Iterator[Row]:
        """Resume what the run folder holds, take the steps that are left, and yield the metrics of each, as
        metrics.jsonl has them. The summary is written after the last one. A second call goes on where the first was
        left. Collective. Raises RuntimeError outside of `with`."""
        if self._steps is None:
            raise RuntimeError(OUTSIDE)
        return self._steps

    def _take(self) -> Generator[Row]:
        from fastsvs import training

        for row in training.steps(self.session):
            self._done = row["step"]
            yield row
        training.conclude(self.session)

    @contextmanager
    def _open(self) -> Iterator[Session]:
        """Open the session, and save what is done when the caller leaves early."""
        startup.prepare(self.job)
        from fastsvs import preemption, training

        with preemption.listening(), training.open_session(self.job) as session:
            yield session
            if self._done is not None and self._done < self.job.run.steps:
                session.save(self._done)
                session.saver.finish()


@dataclass(frozen=True)
class Evaluation:
    """The answers of a model to a set of problems, and what they come to."""

    figures: Mapping[str, Any]
    """Figures of the set, as `fastsvs eval` writes them: pass@k with intervals, lengths, and more."""
    problems: Sequence[Row]
    """Problems in the order of the set, with responses and verdicts."""


def evaluate(
    model: str | Path,
    problems: str | Path | Sequence[Mapping[str, Any]],
    *,
    output: str | Path | None = None,
    sections: Mapping[str, Any] | None = None,
    **plan: Any,
) -> Evaluation:
    """Evaluate a Hugging Face model, a run or a checkpoint on a problem set, which is one that `data.path` takes or a
    sequence of its rows, such as `{"problem": ..., "answer": ...}`.

    `plan` has the keys of a set of `fastsvs eval` (`samples=8, k=[1, 8], temperature=1.0, data={...}`), and `sections`
    the others of its configuration (`{"rollout": {...}, "seed": 1}`). With `output` the answers are kept in that
    folder, and a repeated call goes on where it stopped. Raises UserError for what cannot be read or evaluated, and
    without `output` under torchrun, whose processes need one folder.
    """
    if output is None and whole_number("WORLD_SIZE", 1, least=1) > 1:
        raise UserError("evaluate: name an `output` folder that all processes of torchrun see")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(output if output is not None else f"{scratch}/evaluation")
        rows = None if isinstance(problems, str | Path) else _rows(problems)
        path = str(problems if rows is None else folder.with_name(f"{folder.name}.{SET}.jsonl"))
        data = {**plan.pop("data", {}), "path": path}
        own = {"model": {"path": str(model)}, "sets": {SET: {**plan, "data": data}}, "output": str(folder)}
        job = config.build(config.EvalJob, own | dict(sections or {}), "evaluate")
        startup.prepare(job)
        from fastsvs import distributed
        from fastsvs.commands.evaluate import run_evaluation

        distributed.initialize(job.timeout_seconds)
        if rows is not None and distributed.is_main():
            write_jsonl(Path(path), rows)
        distributed.barrier()
        figures = run_evaluation(job)["sets"][SET]
        return Evaluation(figures, read_jsonl(folder / f"{SET}.samples.jsonl"))


def _rows(problems: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of a problem set. Raises UserError for what is no row, or cannot be written as JSON."""
    rows = []
    for index, row in enumerate(problems):
        if not isinstance(row, Mapping):
            raise UserError(
                f"evaluate: a row of problems is a mapping such as {{'problem': ..., 'answer': ...}}, found {row!r}; "
                "of a pandas table give table.to_dict('records')"
            )
        try:
            json.dumps(dict(row))
        except TypeError as error:
            raise UserError(f"evaluate: row {index} of problems cannot be written as JSON: {error}") from error
        rows.append(dict(row))
    return rows
