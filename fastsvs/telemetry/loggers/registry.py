"""Loggers by name, and a wrapper around several of them whose failures cannot hurt the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fastsvs.config import LoggingConfig
from fastsvs.errors import UserError
from fastsvs.output import say
from fastsvs.registry import Registry

BUILT_IN = ("tensorboard", "wandb", "mlflow")
"""Loggers that need the package of their name, which the extra of their name brings."""


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
    """A receiver of a run's metrics. It may also have `log_samples(step, rows)`, for a table whose rows have the names
    of `tables.COLUMNS`, `alert(text)`, and `link`, a text that says where to look at the run, or None."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class LoggerFactory(Protocol):
    """A function or class that opens a logger for a run."""

    def __call__(self, run: RunFacts) -> Logger: ...


class AlertFn(Protocol):
    """A function that looks at the metrics of a step, and returns what somebody should know of them, or None."""

    def __call__(self, row: Mapping[str, float]) -> str | None: ...


LOGGERS: Registry[LoggerFactory] = Registry("logger", takes=("run",), makes=("log", "close"))
ALERTS: Registry[AlertFn] = Registry("alert", takes=("row",))


def check_loggers(config: LoggingConfig) -> None:
    """Raise UserError for an unknown logger or alert, and for a logger whose package is missing."""
    for name in config.loggers:
        LOGGERS.get(name)
        if name in BUILT_IN and find_spec(name) is None:
            raise UserError(f"logging.loggers: {name} needs a package that is not here: pip install 'fastsvs[{name}]'")
    if config.alert is not None:
        ALERTS.get(config.alert)


class Loggers:
    """All loggers of a run, and its alert. What fails is shown once for each logger, and the rows that it missed are
    counted: the run does not end for it."""

    def __init__(self, run: RunFacts) -> None:
        self._open: dict[str, Logger] = {}
        self._missed: dict[str, int] = {}
        self._alert = ALERTS.get(run.config.alert) if run.config.alert is not None else None
        self._blind = False
        for name in run.config.loggers:
            try:
                self._open[name] = LOGGERS.make(name, run)
            except UserError:
                raise
            except Exception as error:  # any of a hundred kinds; each means that it cannot be opened
                raise UserError(f"logging.loggers: {name} cannot be opened: {type(error).__name__}: {error}") from error

    @property
    def links(self) -> dict[str, str]:
        """Return where to look at the run, by logger."""
        found = {name: getattr(logger, "link", None) for name, logger in self._open.items()}
        return {name: link for name, link in found.items() if link}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass the values of a step to every logger."""
        self._tell("log", step, values)

    def log_samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Pass a table of samples to every logger that takes one."""
        self._tell("log_samples", step, rows)

    def look(self, row: Mapping[str, float]) -> None:
        """Have the alert look at a row of metrics; what it says is shown, and passed to every logger that takes
        alerts."""
        if self._alert is None or self._blind:
            return
        try:
            text = self._alert(row)
        except Exception as error:
            self._blind = True
            _warn(f"logging.alert failed at step {row['step']}, and looks no more: {type(error).__name__}: {error}")
            return
        if text:
            _warn(f"alert at step {row['step']}: {text}")
            self._tell("alert", text)

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

    def _tell(self, method: str, *arguments: Any) -> None:
        """Call a method of every logger that has it."""
        for name, logger in self._open.items():
            try:
                if hasattr(logger, method):
                    getattr(logger, method)(*arguments)
            except Exception as error:
                if name not in self._missed:
                    _warn(f"{name} takes nothing ({type(error).__name__}: {error}); the run folder has everything")
                self._missed[name] = self._missed.get(name, 0) + 1


def _warn(text: str) -> None:
    say(f"fastsvs: logging: {text}")
