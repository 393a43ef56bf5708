"""Logger for Weights & Biases; its own variables choose server, account and mode (`WANDB_MODE=offline`)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastsvs.files import write_atomic
from fastsvs.telemetry.loggers.registry import LOGGERS, RunFacts
from fastsvs.telemetry.loggers.tables import COLUMNS


@LOGGERS.register("wandb")
class WeightsAndBiases:
    """Logger for Weights & Biases. A resumed run continues under its id. Its history only grows: steps made again are
    there twice, with the same values, at the same `step`."""

    def __init__(self, run: RunFacts) -> None:
        import wandb

        self._table = wandb.Table
        remembered = run.folder / "wandb.id"
        if not remembered.exists():
            write_atomic(remembered, uuid.uuid4().hex[:8])
        self._run = wandb.init(
            project=run.config.project,
            name=run.name,
            id=remembered.read_text(),
            resume="allow",
            dir=str(run.folder),
            config=dict(run.parameters),
            settings=wandb.Settings(console="off"),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table of samples, as `samples`."""
        table = self._table(columns=list(COLUMNS), data=[[row[name] for name in COLUMNS] for row in rows])
        self._run.log({"samples": table, "step": step})

    def alert(self, text: str) -> None:
        self._run.alert(title="fastsvs", text=text)

    @property
    def link(self) -> str | None:
        """Return the address of the run; None when it is offline."""
        return self._run.url

    def close(self) -> None:
        self._run.finish()
