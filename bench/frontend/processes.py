"""Processor time of a server's processes, as Linux counts it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Seconds:
    """Processor time so far, or between two moments, in seconds."""

    front: float
    """Time of the process that speaks HTTP."""
    engine: float
    """Time of the front's children, which schedule."""
    worker: float
    """Time of the engine's children, which sample."""
    client: float
    """Time of this process, which asks, and of its client process, which reads."""

    def __sub__(self, earlier: Seconds) -> Seconds:
        return Seconds(*(getattr(self, part.name) - getattr(earlier, part.name) for part in fields(self)))


def spent(supervisor: int, client: int) -> Seconds:
    """Return the time of the server that our process `supervisor` has started, and of this process with its process
    `client`."""
    (front,) = children(supervisor)
    engine = children(front)
    worker = [child for process in engine for child in children(process)]
    return Seconds(
        *map(processor_seconds, ([front], engine, worker)), time.process_time() + processor_seconds([client])
    )


def children(process: int) -> list[int]:
    """Return the ids of a process's children, in ascending order."""
    listed = [path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children")]
    return sorted(int(child) for line in listed for child in line)


def processor_seconds(processes: Iterable[int]) -> float:
    """Return user and system time of all threads, in seconds, in the clock's ticks of usually 10 ms."""
    stats = [Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() for process in processes]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")
