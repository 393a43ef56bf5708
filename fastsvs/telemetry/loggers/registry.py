"""Loggers by name, and a wrapper around several of them whose failures cannot hurt the run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fastsvs.config import LoggingConfig
from fastsvs.errors import UserError
from fastsvs.registry import Registry

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""Package that each built-in logger needs; its extra has the logger's name."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The facts that a logger gets when it is opened."""

    folder: Path
    """Folder of the run; what a logger must remember between sessions goes here."""
    config: LoggingConfig
    parameters: Mapping[str, Any]
    """Resolved configuration."""
    step: int
    """Number of steps done so far; later ones will be logged, again after a kill."""

    @property
    def name(self) -> str:
        """Return the configured name of the run, or that of its folder."""
        return self.config.name or self.folder.name


class Logger(Protocol):
    """A receiver of a run's metrics."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class LoggerFactory(Protocol):
    """A function or class that opens a logger for a run."""

    def __call__(self, run: RunFacts) -> Logger: ...


LOGGERS: Registry[LoggerFactory] = Registry("logger", takes=("run",), makes=("log", "close"))


def check_loggers(config: LoggingConfig) -> None:
    """Raise UserError for an unknown logger, and for one whose package is missing."""
    for name in config.loggers:
        LOGGERS.get(name)
        if name in PACKAGES and find_spec(PACKAGES[name]) is None:
            raise UserError(f"logging.loggers: {name} needs a package that is not here: pip install 'fastsvs[{name}]'")


class Loggers:
    """All loggers of a run. A logger that fails is shown once, and its missed rows are counted: the run does not end
    for it."""

    def __init__(self, run: RunFacts) -> None:
        self._open: dict[str, Logger] = {}
        self._missed: dict[str, int] = {}
        for name in run.config.loggers:
            try:
                self._open[name] = LOGGERS.make(name, run)
            except UserError:
                raise
            except Exception as error:  # any of a hundred kinds; each means that it cannot be opened
                raise UserError(f"logging.loggers: {name} cannot be opened: {type(error).__name__}: {error}") from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values of a step to every logger."""
        for name, logger in self._open.items():
            try:
                logger.log(step, values)
            except Exception as error:
                if name not in self._missed:
                    _warn(f"{name} takes no metrics ({type(error).__name__}: {error}); metrics.jsonl has them all")
                self._missed[name] = self._missed.get(name, 0) + 1

    def close(self) -> None:
        """Close every logger, and say how many rows each of them lacks."""
        for name, logger in self._open.items():
            try:
                logger.close()
            except Exception as error:
                _warn(f"{name} cannot be closed: {type(error).__name__}: {error}")
        for name, rows in self._missed.items():
            _warn(f"{name} lacks {rows} row(s) of this session")
        self._open.clear()


def _warn(text: str) -> None:
    print(f"fastsvs: logging: {text}", file=sys.stderr)
