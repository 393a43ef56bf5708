"""Runs of the command line, forked from a process that has imported it already.

A fresh interpreter works for five seconds until the trainer is imported, longer than most runs of the tests take. So
Python's fork server imports it once for each pytest process, and a run is a fork of that server which executes
`fastsvs/__main__.py` as `python -m fastsvs` does (or another program's), with its own command line, environment, folder
and output. Several processes are started as torchrun starts them: they find one another through a store that outlives
them all, and when one fails the others are ended.

What only a fresh interpreter or torchrun itself can show is left to the tests that start `whole_runs.command`.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

import torch.distributed as dist
from whole_runs import ROOT, environment

PRELOADED = [
    "fastsvs.training.loop",
    "fastsvs.commands.sft",
    "fastsvs.commands.self_improve",
    "fastsvs.commands.evaluate",
    "fastsvs.commands.export",
]
PRELOADED += ["transformers.models.qwen2.modeling_qwen2", "matplotlib.pyplot"]  # which these import while they run
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(PRELOADED)


class Run:
    """`python -m MODULE ARGUMENTS`, started: what the tests use of `subprocess.Popen`."""

    def __init__(self, *arguments: str, module: str = "fastsvs", processes: int = 1, folder: Path = ROOT) -> None:
        self._command = [module, *arguments]
        self._folder = TemporaryDirectory()
        self._streams = [Path(self._folder.name, name) for name in ("stdout", "stderr")]
        jobs: list[dict[str, str]] = [{}]
        if processes > 1:
            self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            jobs = [of_torchrun(rank, processes, self._store.port) for rank in range(processes)]
        self._ranks = [
            FORKS.Process(
                target=_execute, args=(self._command, environment() | job, self._streams, folder), daemon=True
            )
            for job in jobs
        ]
        for rank in self._ranks:
            rank.start()

    @property
    def pid(self) -> int:
        return self._ranks[0].pid

    def signal(self, number: int, rank: int = 0) -> None:
        os.kill(self._ranks[rank].pid, number)

    @property
    def codes(self) -> list[int | None]:
        """The exit status of each rank that has ended."""
        return [rank.exitcode for rank in self._ranks]

    def poll(self) -> int | None:
        """The exit status once all have ended. Of several it is torchrun's: 1 when one has failed."""
        codes = [rank.exitcode for rank in self._ranks]
        if None in codes:
            return None
        return codes[0] if len(codes) == 1 else int(any(codes))

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else monotonic() + timeout
        while (status := self.poll()) is None:
            running = [rank.sentinel for rank in self._ranks if rank.exitcode is None]
            if not wait(running, None if deadline is None else max(0.0, deadline - monotonic())):
                self.kill()
                raise subprocess.TimeoutExpired(self._command, timeout)
            if any(rank.exitcode for rank in self._ranks):
                self.kill()
        return status

    def kill(self) -> None:
        for rank in self._ranks:
            rank.kill()

    def completed(self, timeout: float) -> subprocess.CompletedProcess[str]:
        """Wait for the end; the status and what was printed."""
        status = self.wait(timeout)
        output, errors = (path.read_text() for path in self._streams)
        return subprocess.CompletedProcess(self._command, status, output, errors)


def of_torchrun(rank: int, processes: int, port: int) -> dict[str, str]:
    """Return the variables by which a process knows its place in a job on one node, whose store the test
    keeps as torchrun's agent does: a port that a rank opened itself could be somebody else's by then."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "GROUP_RANK": 0}
    store = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    return {name: str(value) for name, value in (place | store).items()}


def _execute(command: Sequence[str], variables: Mapping[str, str], streams: Sequence[Path], folder: Path) -> None:
    """In the forked process."""
    for number, path in enumerate(streams, start=1):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a background job ignores, its children do
    sys.path.insert(0, str(folder))
    sys.argv = list(command)
    sys.orig_argv = [sys.executable, "-m", *command]
    try:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
