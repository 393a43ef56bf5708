"""Judges beside the answer verifier, by the name that a stage's tasks give: opened for a run whose stage needs them."""

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
        """What the log of the run says about it."""


JudgeFactory = Callable[[TrainJob], AbstractContextManager[OpenedJudge]]
"""Raises UserError where it must not or cannot judge."""
JUDGES = Registry[JudgeFactory]("judge")
