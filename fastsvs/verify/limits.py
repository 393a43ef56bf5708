"""How many processes verify, and how long each may take over one response."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from fastsvs.config import VerifierConfig
from fastsvs.variables import whole_number
from fastsvs.workers import Attempt

FEWEST_WORKERS, MOST_WORKERS = 2, 16
"""Bounds of the number of workers, where the configuration leaves it to the machine."""
FIRST_SECONDS = 1.0
"""Limit of the first attempt at an answer, in seconds of CPU time. What needs longer is tried again with the whole
limit, after all others."""
WALL_FACTOR = 10.0
"""Wall time of a check over its CPU time from which on its process counts as stuck."""


def attempts(question: Sequence[Any], seconds: float) -> Iterator[Attempt]:
    """Yield the attempts at a question: a short one, then one with the whole limit of CPU time. A worker gets the
    question with the limit behind it."""
    for limit in sorted({min(FIRST_SECONDS, seconds), seconds}):
        yield Attempt([*question, limit], limit * WALL_FACTOR)


def workers_of(config: VerifierConfig) -> int:
    """Return the number of processes of this rank."""
    return config.workers or workers_of_machine()


def workers_of_machine() -> int:
    """Return half of this rank's share of the cores of its node, between FEWEST_WORKERS and MOST_WORKERS. The other
    cores are the engine's and the trainer's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ranks = whole_number("LOCAL_WORLD_SIZE", 1, least=1)
    return min(max(cores // ranks // 2, FEWEST_WORKERS), MOST_WORKERS)
