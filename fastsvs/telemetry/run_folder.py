"""The run folder: resolved config, environment, metrics, samples, evaluations, checkpoints, summary.

Whatever a killed run wrote after its last checkpoint is made again, identically, when the run is resumed. Rows of the
metrics beyond that checkpoint are therefore removed first.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from fastsvs import config as configuration
from fastsvs import fingerprints
from fastsvs.config import SelfJob, SftJob, TrainJob, differences
from fastsvs.environment import describe_environment
from fastsvs.errors import UserError
from fastsvs.files import CURE, append_jsonl, check_folder, lock, write_atomic, write_json, write_jsonl
from fastsvs.fingerprints import FILES, MODEL
from fastsvs.stored_run import StoredRun
from fastsvs.telemetry.loggers import Loggers, check_loggers
from fastsvs.telemetry.loggers.registry import RunFacts
from fastsvs.telemetry.loggers.tables import table_of

RESUMABLE = {
    *("run.dir", "run.steps", "run.save_every", "run.save_minutes", "run.keep_checkpoints", "run.timeout_seconds"),
    *("evolution.rounds", "policy.offload"),
}
"""Keys that may change between the sessions of one run: they do not alter what a step computes."""
LAYOUT = {
    *("policy.tensor_parallel", "policy.pipeline_parallel", "policy.sequence_parallel", "policy.context_parallel"),
    *("policy.expert_parallel", "policy.expert_tensor_parallel", "verifier.workers"),
    *("policy.recompute", "policy.recompute_method", "policy.recompute_layers", "policy.backend"),
}
"""Keys of the layout, of memory and of equal parts: a run may be resumed with others, equal up to rounding."""
ASIDE = (
    "rollout.server.",
    "rollout.placement",
    "rollout.nodes",
    "rollout.client_processes",
    "sync.",
    "dynamics.",
    "logging.",
)
"""Beginnings of the keys for servers and the ways to reach them, and for what is observed during a run."""
INTERVAL = {"mean", "low", "high"}


class RunFolder:
    """The folder of a run. Only the main rank writes (`writable`); all ranks may read.

    Making one checks that the folder is free or holds the same run, and writes nothing; `begin` writes, once every part
    of the run is ready. Raises UserError for a folder with something else in it, or with damaged files.
    """

    def __init__(self, job: TrainJob | SftJob | SelfJob, root: Path, writable: bool) -> None:
        self.root = root
        self.stored = StoredRun(root)
        self.layout = self.stored.layout
        self.checkpoints = self.layout.checkpoints
        self._writable = writable
        self._job = job
        self._loggers: Loggers | None = None
        self._lock: IO[str] | None = None
        self._inputs: fingerprints.Inputs = {}
        if writable:
            check_folder("run.dir", root)
        self._check_same_run()
        check_loggers(job.logging)

    def check_inputs(self, inputs: fingerprints.Inputs) -> None:
        """Check that the run was begun with the same `inputs`, by their digests, and with the same weights. Raises
        UserError with what has changed. `begin` records them."""
        self._inputs = {**inputs, FILES: fingerprints.of_files(self._job)}
        if self._writable:
            if MODEL in fingerprints.recorded(self.layout.inputs):
                self._inputs = {**self._inputs, MODEL: self._weights()}
            cure = "bring back what it began with, or choose another run.dir"
            fingerprints.check(self.layout.inputs, self._inputs, cure)

    def begin(self, step: int) -> None:
        """Record configuration, environment and inputs, and remove the metrics of steps after `step`, which will be
        made again."""
        if not self._writable:
            return
        self._lock = self._lock or lock(self.root)
        write_atomic(self.layout.config, configuration.dump(self._job))
        if not self.layout.environment.exists():
            write_json(self.layout.environment, describe_environment())
        if MODEL not in fingerprints.recorded(self.layout.inputs):
            self._inputs = {**self._inputs, MODEL: self._weights()}
        fingerprints.record(self.layout.inputs, self._inputs)
        write_jsonl(self.layout.metrics, [row for row in self.metrics() if row["step"] <= step])
        self._loggers = Loggers(RunFacts(self.root, self._job.logging, self._job.model_dump(mode="json"), step))

    @property
    def links(self) -> dict[str, str]:
        """Return where to look at the run, by logger; empty before `begin`."""
        return self._loggers.links if self._loggers else {}

    def close(self) -> None:
        """Close the loggers, and let another process write."""
        if self._loggers:
            self._loggers.close()
        if self._lock:
            self._lock.close()

    def metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl. Raises UserError for one that names no step, or a value that is no finite
        number."""
        rows = self.stored.metrics()
        for number, row in enumerate(rows, 1):
            where = f"{self.layout.metrics}, line {number}"
            if type(row.get("step")) is not int:
                raise UserError(f"{where}: no step; {CURE}")
            _check_figures(row, where)
        return rows

    def log(self, row: Mapping[str, Any]) -> None:
        """Append a row to metrics.jsonl, and pass it to the loggers. Raises UserError for a value that is no finite
        number."""
        for name, value in row.items():
            if not _is_finite(value):
                raise UserError(
                    f"step {row['step']}: the metric {name} is {value!r}, which is no finite number: mend what "
                    "computes it (a plug-in of your own?), or lower policy.optimizer.learning_rate if it diverges"
                )
        if self._writable:
            append_jsonl(self.layout.metrics, row)
        if self._loggers:
            self._loggers.log(row["step"], {name: value for name, value in row.items() if name != "step"})
            self._loggers.look(row)

    def write_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write the samples of a step, pass a table of them to the loggers where one is due, and return their file."""
        path = self.layout.samples(step)
        if self._writable:
            write_jsonl(path, rows)
        every = self._job.logging.sample_every
        if self._loggers and every and step % every == 0:
            self._loggers.log_samples(step, table_of(rows, self._job.logging.sampled_groups))
        return path

    def write_tokens(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the tokens of a step. Without rows there is no file, nor one that an earlier session left."""
        if self._writable:
            _write_or_remove(self.layout.tokens(step), rows)

    def write_evaluation(
        self,
        step: int,
        result: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        tokens: Sequence[Mapping[str, Any]],
    ) -> None:
        """Write an evaluation, its samples and the tokens of a share of them, and pass its figures to the loggers."""
        if self._writable:
            _write_or_remove(self.layout.evaluation_tokens(step), tokens)
            write_jsonl(self.layout.evaluation_samples(step), rows)
            write_json(self.layout.evaluation(step), result)
        if self._loggers:
            self._loggers.log(step, dict(_scalars(result)))

    def evaluations(self) -> dict[int, dict[str, Any]]:
        """Return all evaluations so far, by step. Raises UserError for one with a figure that is no finite number, or
        a pass@k that is no interval."""
        found = self.stored.evaluations()
        for step, result in found.items():
            where = str(self.layout.evaluation(step))
            for name, value in result.items():
                if name.startswith("pass@") and not (isinstance(value, Mapping) and value.keys() >= INTERVAL):
                    raise UserError(f"{where}: {name} is {value!r} instead of mean, low and high; {CURE}")
            _check_figures(dict(_scalars(result)), where)
        return found

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json."""
        if self._writable:
            write_json(self.layout.summary, summary)

    def _weights(self) -> dict[str, Any]:
        """Return the digest of the weights that the run begins with; random ones follow from the seed."""
        model = self._job.model
        files = fingerprints.weight_files(model.path) if model.initialize == "pretrained" else []
        return fingerprints.of_weights(files)

    def _check_same_run(self) -> None:
        path = self.layout.config
        if not path.exists():
            early = {self.layout.logs, self.layout.servers}  # a run that is killed as it starts leaves them alone
            found = set(self.root.iterdir()) - early if self.root.is_dir() else set()
            if any(not entry.name.startswith(".") for entry in found):
                raise UserError(f"{self.root} holds files but no run: choose another run.dir or remove it")
            return
        changed = differences(path, self._job, lambda key: key in RESUMABLE | LAYOUT or key.startswith(ASIDE))
        if changed:
            raise UserError(
                f"{self.root} holds a run with another configuration ({'; '.join(changed)}): "
                "choose another run.dir, remove the folder, or resume with the configuration it began with"
            )
        done = max(self.stored.checkpoints(), default=0)
        if done > self._job.run.steps:
            raise UserError(
                f"{self.root} holds a run of {done} steps, more than run.steps={self._job.run.steps}, which counts all "
                "steps of a run: raise it to go on, or choose another run.dir"
            )
        self.metrics(), self.evaluations()  # a run that goes on needs them: what is damaged is told before it begins


def _write_or_remove(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        write_jsonl(path, rows)
    else:
        path.unlink(missing_ok=True)


def _check_figures(figures: Mapping[str, Any], where: str) -> None:
    for name, value in figures.items():
        if not _is_finite(value):
            raise UserError(f"{where}: {name} is {value!r}, which is no finite number; {CURE}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _scalars(result: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the figures of an evaluation under `evaluation/`, the ends of intervals as `/low` and `/high`."""
    for name, value in result.items():
        if isinstance(value, Mapping):
            yield from ((f"evaluation/{name}" + ("" if part == "mean" else f"/{part}"), value[part]) for part in value)
        else:
            yield f"evaluation/{name}", value
