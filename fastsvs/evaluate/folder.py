"""The folder of an evaluation: responses as they come, figures when a set is done.

A repeated command continues where it stopped: a problem is asked again only when its line is not there as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fastsvs import config as configuration
from fastsvs import fingerprints
from fastsvs.config import EvalJob, differences
from fastsvs.environment import describe_environment
from fastsvs.errors import UserError
from fastsvs.evaluate.answered import Answered
from fastsvs.files import (
    append_jsonl,
    check_folder,
    lock,
    read_jsonl,
    read_mapping,
    write_atomic,
    write_json,
    write_jsonl,
)
from fastsvs.fingerprints import FILES, MODEL
from fastsvs.stored_evaluation import EvaluationLayout

WHERE_IT_RUNS = (
    *("output", "suites", "timeout_seconds", "token_share", "verifier.workers"),
    *("rollout.server.", "rollout.max_sequences", "rollout.client_processes"),
)
"""Beginnings of the keys that do not change what is asked."""
BEFORE_CONFIG = ("model.json", "environment.json", "inputs.json", "logs")
"""Names of files that a command that was killed at its start may have written."""


class EvaluationFolder:
    """The folder of one evaluation. Only the main rank writes (`writable`); all ranks may read."""

    def __init__(self, job: EvalJob, step: int, writable: bool) -> None:
        """Check that the folder is free or holds the same evaluation. Raises UserError when it does not."""
        self.root = Path(job.output)
        self._layout = EvaluationLayout(self.root)
        self._job = job
        self._step = step
        self._writable = writable
        self._inputs: fingerprints.Inputs = {}
        self._record = self._layout.inputs
        self._weights: Callable[[], Mapping[str, Any]] = dict
        if writable:
            check_folder("output", self.root)
        self._check_same_job()

    def check_inputs(self, inputs: fingerprints.Inputs, weights: Callable[[], Mapping[str, Any]]) -> None:
        """Check that the folder's answers are of the same weights to the same problems, by their digests; `weights`
        reads those of the weights. Raises UserError with what has changed. `begin` records them."""
        self._inputs, self._weights = {**inputs, FILES: fingerprints.of_files(self._job)}, weights
        if self._writable:
            if MODEL in fingerprints.recorded(self._record):
                self._inputs = {**self._inputs, MODEL: weights()}
            fingerprints.check(self._record, self._inputs, "choose another output, or remove the folder")

    def begin(self) -> None:
        if self._writable:
            self._lock = lock(self.root)
            write_json(self._layout.model, {"path": self._job.model.path, "step": self._step})
            if not self._layout.environment.exists():
                write_json(self._layout.environment, describe_environment())
            if MODEL not in fingerprints.recorded(self._record):
                self._inputs = {**self._inputs, MODEL: self._weights()}
            fingerprints.record(self._record, self._inputs)
            write_atomic(self._layout.config, configuration.dump(self._job))

    def close(self) -> None:
        """Release the lock so that another process can write."""
        if self._writable:
            self._lock.close()

    def answered(self, name: str) -> list[Answered]:
        """Return the problems of a set that are done, in the order of the set."""
        path = self._layout.samples(name)
        try:
            answered = [Answered.from_row(row) for row in read_jsonl(path)]
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            raise UserError(
                f"{path} is not as it was written ({where}: {fault['msg']}): move it away to ask this set again"
            ) from error
        return sorted(answered, key=lambda problem: problem.key)

    def open_set(self, name: str, done: list[Answered]) -> None:
        """Rewrite the set's files with `done` and nothing else, in case a kill cut their last lines."""
        if not self._writable:
            return
        write_jsonl(self._layout.samples(name), [problem.as_row() for problem in done])
        if (tokens := self._layout.tokens(name)).exists():
            keys = {problem.key for problem in done}
            write_jsonl(tokens, [row for row in read_jsonl(tokens) if row.get("key") in keys])

    def add(self, name: str, problem: Answered, tokens: Mapping[str, Any] | None) -> None:
        """Append a problem to the set's file. Its tokens, where they are kept, are written before it, as a problem that
        is there is not asked again."""
        if not self._writable:
            return
        if tokens is not None:
            append_jsonl(self._layout.tokens(name), tokens)
        append_jsonl(self._layout.samples(name), problem.as_row())

    def write_figures(self, name: str, figures: Mapping[str, Any]) -> None:
        if self._writable:
            write_json(self._layout.figures(name), figures)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        if self._writable:
            write_json(self._layout.summary, summary)

    def _check_same_job(self) -> None:
        path, model = self._layout.config, self._layout.model
        if not path.exists():
            found = [entry.name for entry in self.root.iterdir()] if self.root.is_dir() else []
            if any(not name.startswith(".") and name not in BEFORE_CONFIG for name in found):
                raise UserError(f"{self.root} holds files but no evaluation: choose another output or remove it")
            return
        changed = differences(path, self._job, lambda key: key.startswith(WHERE_IT_RUNS))
        step = read_mapping(model).get("step")
        if step != self._step:
            changed.append(f"step of {self._job.model.path}: {step} -> {self._step}")
        if changed:
            raise UserError(
                f"{self.root} holds an evaluation of something else ({'; '.join(changed)}): choose another output, or "
                "remove the folder"
            )
