"""Processes of this machine: which there are, which one a recorded number meant, and how one ends with its parent.

It needs the standard library alone. Linux tells all of it; elsewhere there are no processes to be seen.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_VARIABLE = "FASTSVS_SERVER_PARENT"
"""Name of the environment variable in which a process tells those that it starts who their parent is."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs, or that has ended and is not yet forgotten by its parent."""

    pid: int
    started: int
    """Time of its start in clock ticks since the machine's: what tells it from a later process of the same number."""
    parent: int
    ended: bool


def process(pid: int) -> Process | None:
    """Return a process, or None where there is none of this number."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, started=int(fields[19]), parent=int(fields[1]), ended=fields[0] in b"ZX")


def processes() -> list[Process]:
    """Return all processes that this one may see."""
    numbers = [int(name) for name in os.listdir("/proc") if name.isdigit()] if os.path.isdir("/proc") else []
    return [found for number in numbers if (found := process(number)) is not None]


def descendants(ancestors: Collection[int]) -> list[Process]:
    """Return all processes that descend from `ancestors`, without these."""
    left, found, newest = processes(), [], set(ancestors)
    while newest:
        born = [one for one in left if one.parent in newest and one.pid not in ancestors]
        left = [one for one in left if one.parent not in newest]
        found += born
        newest = {one.pid for one in born}
    return found


def runs(pid: int, started: int) -> bool:
    """Return True while the process that started then runs."""
    found = process(pid)
    return found is not None and found.started == started and not found.ended


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent ends, or the parent's thread that started it (on Linux).

    Where the caller knows who the `parent` is, and it has ended by then, this process ends now.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        found = process(parent)
        if found is None or found.ended:
            os.kill(os.getpid(), signal.SIGKILL)


def set_subreaper() -> None:
    """Make this process the parent of descendants whose parents end (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_ancestors() -> None:
    """Have this process, and all that it starts and that call this too, end with their parents. Processes that are
    forked call it by themselves."""
    _tie_to_parent()
    os.register_at_fork(after_in_child=_tie_to_parent)


def _tie_to_parent() -> None:
    if named := os.environ.get(PARENT_VARIABLE):
        die_with_parent(int(named))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
