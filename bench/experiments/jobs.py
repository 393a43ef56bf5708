"""Runner of the `fastsvs` calls whose results are not there yet, in processes of one thread each, several side by
side."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from fastsvs.errors import UserError

Say = Callable[[str], None]


class Work(Protocol):
    """One call of `fastsvs`."""

    @property
    def folder(self) -> Path:
        """Return the folder that it makes. Its log is written beside it."""

    @property
    def result(self) -> Path:
        """Return the path of a file that exists when it is done."""

    def arguments(self) -> list[str]:
        """Return the arguments of `fastsvs` that start or continue it."""


class Phase(NamedTuple):
    chains: Iterable[Iterable[Work]]
    """Chains of calls: those of a chain follow each other, chains go side by side."""
    alone: bool = False
    """True where each call has the machine for itself, because it is timed."""


def finish(phases: Iterable[Phase], workers: int, say: Say = print) -> None:
    """Finish all work, one phase after another, chains in their order. What is done is not done again, and what was
    killed continues.

    Raises UserError with the end of the log when a process fails.
    """
    for phase in phases:
        with ThreadPoolExecutor(1 if phase.alone else workers) as pool:
            list(pool.map(partial(_follow, say=say), phase.chains))


def _follow(chain: Iterable[Work], say: Say) -> None:
    for work in chain:
        _make(work, say)


def _make(work: Work, say: Say) -> None:
    if work.result.exists():
        return
    log = work.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fastsvs", *work.arguments()]
    with log.open("ab") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=_environment(), check=False)
    if ended.returncode:
        end = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise UserError(f"{work.folder} failed with exit status {ended.returncode}; the end of {log}:\n{end}")
    say(f"done: {work.folder}")


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
