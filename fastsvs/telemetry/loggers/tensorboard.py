"""Logger that writes TensorBoard event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from fastsvs.telemetry.loggers.registry import LOGGERS, RunFacts
from fastsvs.telemetry.loggers.tables import as_markdown


@LOGGERS.register("tensorboard")
class TensorBoard:
    """Logger for TensorBoard. Steps that are made again after a kill replace the earlier ones."""

    def __init__(self, run: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = str(run.folder / "tensorboard")
        self.link = f"tensorboard --logdir {folder}"
        self._writer = SummaryWriter(folder, purge_step=run.step + 1 if run.step else None)
        self._writer.add_text("config", f"```\n{yaml.safe_dump(dict(run.parameters), sort_keys=False)}```", run.step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write a table of samples, as the text `samples`."""
        self._writer.add_text("samples", as_markdown(rows), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
