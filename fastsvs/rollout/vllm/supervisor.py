"""Runs a command and makes sure that nothing of it outlives the process that started this script.

    python supervisor.py OWNER_PID RECORD FOLDER COMMAND...

SIGTERM, or the death of the owner by whatever means, ends all processes of the command, however they were started, and
the script with them; their shared memory and the FOLDER of their temporary files go too. RECORD is the file that says
what there is to remove, for the case that this script is killed itself (`fastsvs.leftovers`). The standard library is
all that it needs, so that it starts at once and has nothing to fail on. Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from fastsvs import leftovers
from fastsvs.processes import descendants, die_with_parent, set_subreaper

GRACE_SECONDS = 5.0
"""Time from SIGTERM to SIGKILL, in seconds."""
CHECK_SECONDS = 0.2
SURVEY_SECONDS = 1.0
"""Longest time from the start of a process to its entry in the record, in seconds."""


def main(owner: int, place: Path, folder: Path, arguments: list[str]) -> int:
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: told.append(number))
    # Children of the command whose parent has died become ours instead of init's: we can find and kill them.
    set_subreaper()
    try:
        inventory = Inventory(place, leftovers.Record(leftovers.boot(), leftovers.identify(owner), str(folder)))
    except ProcessLookupError:
        return 0
    folder.mkdir(mode=0o700)
    command = start(arguments)
    while command.poll() is None and not told and os.getppid() == owner:
        inventory.keep()
        time.sleep(CHECK_SECONDS)
    inventory.take()
    if command.poll() is None:
        terminate(command)
    leftovers.end(family)  # those whose parents die become our children, until there are none left
    inventory.sweep()
    return 0 if command.returncode is None else command.returncode


class Inventory:
    """The record of what the command has, kept up to date."""

    def __init__(self, place: Path, record: leftovers.Record) -> None:
        self._place = place
        self._record = record
        self._own = leftovers.identify(os.getpid())
        self._taken = 0.0
        self._names = 0
        self.take()

    def keep(self) -> None:
        """Take the inventory where shared memory was made or removed, or the last one is old."""
        if self._change_of_names() != self._names or time.monotonic() > self._taken + SURVEY_SECONDS:
            self.take()

    def take(self) -> None:
        """Write down which processes and which shared memory there are, if that has changed."""
        self._names, self._taken = self._change_of_names(), time.monotonic()
        found = family()
        segments = leftovers.segments_of(pid for pid, _ in found)
        segments |= {one for one in self._record.segments if leftovers.exists(one)}  # of processes that have died since
        record = replace(self._record, processes=(self._own, *sorted(found)), segments=tuple(sorted(segments)))
        if record != self._record:
            with suppress(OSError):  # a disk that is full ends no server
                leftovers.write(self._place, record)
            self._record = record

    def sweep(self) -> None:
        """Remove what is left, except this process."""
        leftovers.remove(replace(self._record, processes=()))
        leftovers.forget(self._place)

    def _change_of_names(self) -> int:
        try:
            return leftovers.SHARED_MEMORY.stat().st_mtime_ns
        except OSError:
            return 0


def family() -> list[leftovers.Known]:
    """Return all descendants that run."""
    return [(one.pid, one.started) for one in descendants([os.getpid()]) if not one.ended]


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start the command, which ends with this process."""
    here = os.getpid()
    return subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, process_group=0, preexec_fn=lambda: die_with_parent(here)
    )


def terminate(command: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the command's process group, and wait up to GRACE_SECONDS for the command to end."""
    with suppress(ProcessLookupError):
        os.killpg(command.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while command.poll() is None and time.monotonic() < deadline:
        time.sleep(CHECK_SECONDS / 4)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
