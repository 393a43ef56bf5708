"""One start of a job on all its nodes, watched while it runs and ended as torchrun's agents end it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from bench.rehearsal.hosts import Hosts
from bench.rehearsal.rank import FORKS, Place, hold_store, run
from bench.rehearsal.scales import Scale

LOOK_SECONDS = 0.5
MEMORY_SECONDS = 5.0
"""Time between two looks at the memory of all ranks, in seconds."""
GRACE_SECONDS = 30.0
"""Time from SIGTERM to SIGKILL, as torchrun's, in seconds."""
LEFT_SECONDS = 60.0
"""Longest life of anything on a node after the last of its ranks has ended, in seconds."""


class RehearsalError(Exception):
    """The job did not do what it must."""


class Attempt:
    """The processes of one start of a job."""

    def __init__(self, hosts: Hosts, store: BaseProcess, nodes: Sequence[Sequence[BaseProcess]], folder: Path) -> None:
        self.hosts = hosts
        self.store = store
        self.nodes = nodes
        self.folder = folder
        self.peak_memory: dict[int, int] = {}
        """Largest proportional share of memory of each training rank, in bytes: what ranks share is dealt to them."""
        self.open_files: dict[int, int] = {}
        """Largest number of open files of each training rank."""
        self._looked = 0.0
        self._ends: dict[int, float] = {}

    @property
    def ranks(self) -> list[BaseProcess]:
        return [process for node in self.nodes for process in node]

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Watch the job until all its ranks have ended or `until` returns True. Where a rank fails, torchrun's agent
        ends the node's other ranks. Raises RehearsalError after `seconds`."""
        deadline = time.monotonic() + seconds
        while any(process.is_alive() for process in self.ranks) and not until():
            if time.monotonic() > deadline:
                raise RehearsalError(f"the job is not done after {seconds:g} s: {self.said()}")
            self._look()
            self._end_failed_nodes()
            time.sleep(LOOK_SECONDS)

    def kill_node(self, node: int) -> None:
        """End all processes of a node with SIGKILL, as a machine that stops does."""
        for pid in {*self.hosts.processes(node), *(process.pid for process in self.nodes[node])}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def check_that_none_failed(self) -> None:
        """Raise RehearsalError when a rank ended with a status other than 0."""
        codes = {number: process.exitcode for number, process in enumerate(self.ranks) if process.exitcode}
        if codes:
            raise RehearsalError(f"ranks ended with a status other than 0 {codes}: {self.said()}")

    def check_that_nothing_is_left(self) -> None:
        """Raise RehearsalError when a process that the ranks started outlives them by LEFT_SECONDS."""
        deadline = time.monotonic() + LEFT_SECONDS
        while left := self._left():
            if time.monotonic() > deadline:
                raise RehearsalError(f"processes outlive the job: {left}")
            time.sleep(LOOK_SECONDS)

    def _left(self) -> dict[int, str]:
        """Return the command lines of all processes on the nodes but the store, by process id."""
        found = {}
        for node in range(len(self.nodes)):
            for pid in self.hosts.processes(node):
                with suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if words and pid != self.store.pid:  # a process without words has ended
                        found[pid] = words[:120]
        return found

    def said(self) -> str:
        """Return the last lines that ranks printed, those of the first rank that failed before others."""
        failed = [number for number, process in enumerate(self.ranks) if process.exitcode]
        [rank, *_] = [*failed, 0]
        log = self.folder / f"rank_{rank}.log"
        lines = log.read_text(errors="replace").splitlines()[-12:] if log.exists() else []
        return f"rank {rank} said last\n" + "\n".join(lines)

    def _look(self) -> None:
        training = [(number, process) for number, process in enumerate(self.ranks) if process.is_alive()]
        remember = time.monotonic() > self._looked + MEMORY_SECONDS
        for number, process in training:
            with suppress(OSError, IndexError):
                files = len(os.listdir(f"/proc/{process.pid}/fd"))
                self.open_files[number] = max(files, self.open_files.get(number, 0))
                if remember:
                    self.peak_memory[number] = max(memory(process.pid), self.peak_memory.get(number, 0))
        if remember:
            self._looked = time.monotonic()

    def _end_failed_nodes(self) -> None:
        for number, node in enumerate(self.nodes):
            if not any(process.exitcode for process in node):
                continue
            first = number not in self._ends
            since = self._ends.setdefault(number, time.monotonic())
            for process in node:
                if first:
                    process.terminate()
                elif time.monotonic() > since + GRACE_SECONDS:
                    process.kill()


def memory(pid: int | None) -> int:
    """Return the proportional share of the memory that a process has resident, in bytes."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * int(rollup.partition("\nPss:")[2].split()[0])


@contextmanager
def started(
    scale: Scale, hosts: Hosts, words: Sequence[str], variables: dict[str, str], folder: Path
) -> Iterator[Attempt]:
    """Start the job on all nodes, and end what is left of it afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    line, theirs = FORKS.Pipe()
    store = FORKS.Process(target=hold_store, args=(hosts, theirs), daemon=True)
    store.start()
    theirs.close()
    if not line.poll(60):
        raise RehearsalError("the store of the job did not start")
    port = line.recv()
    nodes: list[list[BaseProcess]] = []
    attempt = Attempt(hosts, store, nodes, folder)
    try:
        for node in range(scale.nodes):
            nodes.append([])
            for local in range(scale.ranks):
                place = Place(node, scale.nodes, local, scale.ranks, hosts.main_address, port)
                process = FORKS.Process(target=run, args=(hosts, place, words, variables, folder), daemon=True)
                process.start()
                nodes[-1].append(process)
        yield attempt
    finally:
        for node in range(len(nodes)):
            attempt.kill_node(node)
        for process in attempt.ranks:
            process.join(GRACE_SECONDS)
        line.close()
        store.join(GRACE_SECONDS)
