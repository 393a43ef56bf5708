"""Registry of the judges besides the answer verifier, by the name that a stage's tasks give.

A judge is opened for a run whose stage needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from fastsvs.config import TrainJob
from fastsvs.registry import Registry
from fastsvs.selfplay.checking import Judge


class OpenedJudge(Judge, Protocol):
    """A judge with all that it holds open."""

    @property
    def facts(self) -> Sequence[str]:
        """Return the lines about the judge for the run's log."""


JudgeFactory = Callable[[TrainJob], AbstractContextManager[OpenedJudge]]
"""Factory that opens a judge. It raises UserError where the judge must not or cannot judge."""
JUDGES = Registry[JudgeFactory]("judge")
