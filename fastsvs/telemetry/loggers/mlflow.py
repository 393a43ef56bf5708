"""Logger for MLflow at MLFLOW_TRACKING_URI, or in files in the run folder when that is not set."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastsvs.files import write_atomic
from fastsvs.telemetry.loggers.registry import LOGGERS, RunFacts
from fastsvs.telemetry.loggers.tables import columns_of

PARAMETER_CHARACTERS = 500
"""Length of the longest parameter value that every store takes, in characters."""


@LOGGERS.register("mlflow")
class MlFlow:
    """Logger for MLflow. A resumed run continues under its id; steps made again are there twice, with the same
    values."""

    def __init__(self, run: RunFacts) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._metric = Metric
        address = os.environ.get("MLFLOW_TRACKING_URI") or f"file:{run.folder.absolute() / 'mlflow'}"
        if address.startswith("file:"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 would rather have a database
        self._client = MlflowClient(address)
        self._address = address
        remembered = run.folder / "mlflow.id"
        if remembered.exists():
            self._id = remembered.read_text()
            self._client.update_run(self._id, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(run.config.project)
        where = experiment.experiment_id if experiment else self._client.create_experiment(run.config.project)
        self._id = self._client.create_run(where, run_name=run.name).info.run_id
        write_atomic(remembered, self._id)
        parameters = [Param(key, str(value)[:PARAMETER_CHARACTERS]) for key, value in _flat(run.parameters)]
        for first in range(0, len(parameters), 100):
            self._client.log_batch(self._id, params=parameters[first : first + 100])

    @property
    def link(self) -> str:
        """Return the run's place in the tracking server or store."""
        return f"{self._address}, run {self._id}"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the values of a step. MLflow's names have no @: `pass@1` is `pass_at_1` there."""
        now = int(1000 * time.time())
        metrics = [self._metric(name.replace("@", "_at_"), float(value), now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table of samples as the artifact `samples/step_N.json`."""
        self._client.log_table(self._id, columns_of(rows), f"samples/step_{step}.json")

    def close(self) -> None:
        self._client.set_terminated(self._id)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
