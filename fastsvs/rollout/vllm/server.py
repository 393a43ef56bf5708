"""Rollout servers: processes of ours on this machine, or URLs that somebody else keeps alive."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from fastsvs import leftovers
from fastsvs.rollout.vllm.command import Launch, command, environment, free_port, supervised

TAIL_LINES = 30
STOP_SECONDS = 20.0


class Server(Protocol):
    """One server, whatever its process is at the moment. `rollout.vllm.fleet` alone calls it, from one thread."""

    name: str
    ours: bool
    """True where the server may be killed and started again."""

    @property
    def trace(self) -> str:
        """Return where to look when the server fails."""

    async def start(self) -> str:
        """Start the server's process, unless it is somebody else's, and return the URL at which it will answer."""

    def exited(self) -> str | None:
        """Return the reason why its process is gone, or None while it runs."""

    async def stop(self) -> None:
        """End its process and everything that it started, whatever their state; return when nothing is left."""


@dataclass
class ExternalServer:
    """A server that somebody else keeps alive."""

    name: str
    url: str
    ours: bool = False

    @property
    def trace(self) -> str:
        return self.url

    async def start(self) -> str:
        return self.url

    def exited(self) -> str | None:
        return None

    async def stop(self) -> None:
        """Do nothing, because the server is not ours to end."""


@dataclass
class LocalServer:
    """A vLLM process under our supervisor: it ends with this process, even when that is killed with -9, and leaves
    nothing but its log."""

    name: str
    launch: Launch
    index: int
    log: Path
    """Log file, to which every start of the server appends."""
    ours: bool = True
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _log_start: int = field(default=0, init=False)

    @property
    def trace(self) -> str:
        return str(self.log)

    async def start(self) -> str:
        port = free_port(self.launch.host)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        folder = leftovers.temporary_folder(self.log)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            log.write(f"==== {datetime.now():%Y-%m-%d %H:%M:%S} {self.name} on port {port}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                supervised(command(self.launch, port), leftovers.record_of(self.log), folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self.launch, self.index, os.environ, folder),
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C and torchrun's signals are for the trainer, which then stops us
            )
        return f"http://{self.launch.host}:{port}"

    def exited(self) -> str | None:
        if self._process is None or self._process.poll() is None:
            return None
        return f"its process ended with status {self._process.returncode}, the last it said was\n{self.tail()}"

    def tail(self) -> str:
        """Return the last TAIL_LINES lines of the log since the last start."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])

    async def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:  # by then only a process in an uninterruptible call is left
            self._process.kill()
        self._process = None
        await asyncio.to_thread(leftovers.sweep, leftovers.record_of(self.log))
