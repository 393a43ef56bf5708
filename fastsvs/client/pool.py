"""The trainer's half: starts the client processes, hands them requests, and hears what became of them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from fastsvs.client import messages
from fastsvs.client.faults import TOLD, ClientLostError
from fastsvs.client.files import with_files
from fastsvs.client.messages import FRAME_BYTES, Ask, Header, Sample, Setup
from fastsvs.errors import EngineFailure

LOG = logging.getLogger(__name__)
MODULE = "fastsvs.client.process"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Variables that keep NumPy from starting a thread for every core."""
ATTEMPTS = 3
"""Number of times in a row that a process may end without having answered anything."""
START_SECONDS = 600.0
"""Longest time until a process has loaded what it needs, in seconds."""
SILENCE_SECONDS = 60.0
"""Longest time without a beat of a process, in seconds; then it is killed."""
CLOSE_SECONDS = 5.0


class ClientPool:
    """Up to `size` client processes, each started when there is something for it to do. All methods run in one event
    loop."""

    def __init__(self, setup: Setup, size: int) -> None:
        self._setup = setup
        self._processes: list[_Process | None] = [None] * size
        self._failures = 0
        """Number of processes in a row that ended without an answer."""
        self._numbers = count()

    async def ask(self, place: int, ask: Ask) -> list[Sample]:
        """Return the samples in their order. Cancelling this makes the server stop working on them.

        Process `place` modulo their number does it; requests to one server should have one place, because a process
        keeps its connections. Raises what `process.generate` raises, ClientLostError when the process dies meanwhile,
        and EngineFailure when processes die again and again.
        """
        process = await with_files(lambda: self._process(place % len(self._processes)), "start a client process")
        number = next(self._numbers)
        reply: asyncio.Future[list[Sample]] = asyncio.get_running_loop().create_future()
        process.replies[number] = reply
        process.send(messages.pack_ask(number, ask))
        try:
            return await reply
        except asyncio.CancelledError:
            process.send(messages.pack_cancel(number))
            raise
        finally:
            process.replies.pop(number, None)

    async def close(self) -> None:
        """End all processes."""
        running, self._processes = [process for process in self._processes if process], []
        await asyncio.gather(*(process.close() for process in running))

    async def _process(self, place: int) -> _Process:
        if running := self._processes[place]:
            return running
        if self._failures >= ATTEMPTS:
            raise EngineFailure(
                f"the client processes of the rollout servers end again and again without an answer: does "
                f"`{sys.executable} -m {MODULE} 0` say why, or was memory short (the kernel's log)?"
            )
        process = self._processes[place] = _Process(self._setup)
        process.life = asyncio.create_task(self._follow(place, process))
        return process

    async def _follow(self, place: int, process: _Process) -> None:
        """Hand out what the process says until it ends; then give up what it was asked."""
        try:
            await process.listen(self._hear)
        finally:
            if self._processes:
                self._processes[place] = None
                self._failures += not process.answered
            status = await process.end()
            for reply in process.replies.values():
                if not reply.done():
                    reply.set_exception(ClientLostError(f"the client process ended with status {status}"))
            if self._processes:
                LOG.warning("a client process of the rollout servers ended with status %s", status)

    def _hear(self, process: _Process, header: Header, arrays: memoryview) -> None:
        if "number" not in header:  # a beat
            return
        process.answered, self._failures = True, 0
        reply = process.replies.get(header["number"])
        if reply is None or reply.done():  # given up meanwhile
            return
        if "error" in header:
            reply.set_exception(TOLD[header["error"]](header["message"]))
        else:
            reply.set_result(messages.read_samples(header, arrays))


class _Process:
    """A client process, and what it was asked."""

    def __init__(self, setup: Setup) -> None:
        self.replies: dict[int, asyncio.Future[list[Sample]]] = {}
        self.answered = False
        self.life: asyncio.Task[None]
        self._unsent = [messages.pack_setup(setup)]
        """Frames from before the connection was open."""
        self._writer: asyncio.StreamWriter | None = None
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
            except OSError:
                self._socket.close()
                raise

    def send(self, frame: bytes) -> None:
        if self._writer is None:
            self._unsent.append(frame)
        else:
            self._writer.write(frame)

    async def listen(self, hear: Callable[[_Process, Header, memoryview], None]) -> None:
        """Call `hear` with every frame until the process ends, or is silent for too long."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=FRAME_BYTES)
        self._writer.writelines(self._unsent)
        patience = START_SECONDS
        with suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            while True:
                async with asyncio.timeout(patience):
                    frame = await messages.read_frame(reader)
                patience = SILENCE_SECONDS
                hear(self, *frame)

    async def end(self) -> int:
        """Kill the process, unless it has ended, and return its status."""
        if self._writer is not None:
            self._writer.close()
        self._process.kill()
        return await asyncio.to_thread(self._process.wait)

    async def close(self) -> None:
        """Let the process end by itself, or kill it after CLOSE_SECONDS."""
        if self._writer is not None:
            self._writer.close()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, CLOSE_SECONDS)
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)
