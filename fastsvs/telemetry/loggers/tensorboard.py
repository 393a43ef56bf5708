"""Logger that writes TensorBoard event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from fastsvs.telemetry.loggers.registry import LOGGERS, RunFacts


@LOGGERS.register("tensorboard")
class TensorBoard:
    """Logger for TensorBoard. Steps that are made again after a kill replace the earlier ones."""

    def __init__(self, run: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1 if run.step else None)
        self._writer.add_text("config", f"```\n{yaml.safe_dump(dict(run.parameters), sort_keys=False)}```", run.step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
