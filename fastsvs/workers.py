"""Persistent processes that take requests, each of which may die over one at any time.

A worker has one request at a time, so it is known which one it died over, and its limit of CPU time (its own timer)
counts nothing but the work: time spent waiting for a free worker is no part of it. A request may be tried several
times; what fails goes to the end of the queue, so that a hard request does not keep easy ones waiting. The pool kills a
worker that is silent for too long, as one that was stopped is. Workers are plain subprocesses that import neither torch
nor the program's main module; they end by themselves when the trainer does. A thread of the trainer feeds them, so that
they work while the trainer does something else. Requests and replies are JSON.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, Generic, TypeVar

from fastsvs.errors import UserError

Reply = TypeVar("Reply")
START_ATTEMPTS = 3
START_SECONDS = 300.0
"""Time in which a worker must be ready, in seconds."""
TRANSFER_SECONDS = 10.0
"""Time in which a worker must take a message, or finish one that it has begun to send, in seconds."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a request."""

    message: Any
    """Message to the worker, as JSON."""
    seconds: float
    """Wall time in which the worker must answer, in seconds; a worker that does not is killed."""


@dataclass(slots=True)
class Request(Generic[Reply]):
    """A request to a worker, and the reply to come."""

    attempts: deque[Attempt]
    """Attempts that are left; the first is the one under way."""
    reply: Future[Reply]


class WorkerPool(Generic[Reply]):
    """Up to `size` workers, started when there is something for them to do."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        size: int,
        read: Callable[[Any], Reply],
        lost: Reply,
        environment: Mapping[str, str] | None = None,
        greet: Callable[[Any], None] = lambda greeting: None,
    ) -> None:
        """Prepare the pool. A worker is `python -m module SOCKET ARGUMENTS...`: it first says that it is ready, in a
        message that `greet` gets, then answers every message with one. `read` makes a reply of an answer; when workers
        die over all attempts at a request, the reply is `lost`. `environment` is the whole environment of a worker;
        without it a worker gets the trainer's."""
        self._module = module
        self._arguments = [str(argument) for argument in arguments]
        self._size = size
        self._read = read
        self._lost = lost
        self._environment = environment
        self._greet = greet
        self._workers: dict[Connection, _Worker[Reply]] = {}
        self._failed_starts = 0
        self._submitted: SimpleQueue[Request[Reply] | None] = SimpleQueue()
        """Submitted requests; None closes the pool."""
        self._waiting: deque[Request[Reply]] = deque()
        self._closed = False
        self._submitting = Lock()
        self._bell, self._ring = Pipe(duplex=False)
        """Pipe that wakes the thread when something was submitted."""
        self._thread: Thread | None = None

    def submit(self, *attempts: Attempt) -> Future[Reply]:
        """Submit a request, and return the reply to come; it raises UserError when workers cannot be started.

        When a worker dies or is killed over an attempt, the next one waits at the end of the queue.
        """
        request: Request[Reply] = Request(deque(attempts), Future())
        with self._submitting:
            if self._thread is None:
                self._closed = False
                self._thread = Thread(target=self._serve, name="workers", daemon=True)
                self._thread.start()
            self._tell(request)
        return request.reply

    def close(self) -> None:
        """End all workers, and cancel what they have not answered."""
        if self._thread is not None:
            self._tell(None)
            self._thread.join()
            self._thread = None

    def _tell(self, request: Request[Reply] | None) -> None:
        self._submitted.put(request)
        self._ring.send_bytes(b"!")

    def _serve(self) -> None:
        """Run the thread, which sleeps until a worker or a submission has something to say."""
        while not self._closed:
            try:
                self._start(min(self._size, len(self._waiting) + len(self._busy())) - len(self._workers))
                self._hand_out()
                self._take_in()
                self._end_silent()
            except Exception as error:  # whoever waits for a reply must hear of it
                self._give_up(error)
        for request in self._drop_all():
            request.reply.cancel()

    def _busy(self) -> list[_Worker[Reply]]:
        return [worker for worker in self._workers.values() if worker.request is not None]

    def _start(self, number: int) -> None:
        environment = os.environ if self._environment is None else self._environment
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(number):
            ours, theirs = Pipe()
            _limit_transfers(ours)
            with theirs:
                process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs.fileno()), *self._arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**environment, **path},
                )
            self._workers[ours] = _Worker(process, ours, monotonic() + START_SECONDS)

    def _hand_out(self) -> None:
        for worker in self._workers.values():
            if self._waiting and worker.ready and worker.request is None:
                attempt = self._waiting[0].attempts[0]
                try:
                    worker.connection.send_bytes(json.dumps(attempt.message).encode())
                except OSError:  # it is dead, or stopped; the request waits for another
                    worker.process.kill()
                else:
                    worker.request = self._waiting.popleft()
                    worker.deadline = monotonic() + attempt.seconds

    def _take_in(self) -> None:
        """Wait for news: a submission, or a worker that is ready, has an answer, has died, even while idle, or has been
        silent for too long."""
        deadlines = [worker.deadline for worker in self._workers.values() if worker.deadline is not None]
        patience = max(min(deadlines) - monotonic(), 0) if deadlines else None
        for connection in wait([self._bell, *self._workers], patience):
            if connection is self._bell:
                self._collect_submitted()
            else:
                self._hear(self._workers[connection])  # type: ignore[index]

    def _collect_submitted(self) -> None:
        self._bell.recv_bytes()
        request = self._submitted.get()
        if request is None:
            self._closed = True
        else:
            self._waiting.append(request)

    def _hear(self, worker: _Worker[Reply]) -> None:
        try:
            answer = json.loads(worker.connection.recv_bytes())
        except (EOFError, OSError, ValueError, RecursionError):  # it died, or says what is no JSON
            self._lose(worker)
            return
        if worker.request is None:
            self._greet(answer)
        else:
            try:
                worker.request.reply.set_result(self._read(answer))
            except Exception as error:  # it costs this request alone
                worker.request.reply.set_exception(error)
            worker.request = None
        worker.ready = True
        worker.deadline = None
        self._failed_starts = 0

    def _end_silent(self) -> None:
        now = monotonic()
        for worker in list(self._workers.values()):
            if worker.deadline is not None and worker.deadline <= now and not worker.connection.poll():
                self._lose(worker)

    def _lose(self, worker: _Worker[Reply]) -> None:
        self._end([worker])
        if worker.request is not None:
            worker.request.attempts.popleft()
            if worker.request.attempts:
                self._waiting.append(worker.request)
            else:
                worker.request.reply.set_result(self._lost)
        self._failed_starts += not worker.ready
        if self._failed_starts == START_ATTEMPTS:
            self._failed_starts = 0
            raise UserError(
                f"the processes of {self._module} do not start (exit status {worker.process.returncode}): does "
                f"`{sys.executable} -m {self._module}` say why?"
            )

    def _give_up(self, error: Exception) -> None:
        for request in self._drop_all():
            request.reply.set_exception(error)

    def _drop_all(self) -> list[Request[Reply]]:
        """End all workers, and return the requests that nobody will answer any more."""
        dropped = [*(worker.request for worker in self._busy() if worker.request is not None), *self._waiting]
        self._waiting.clear()
        self._end(list(self._workers.values()))
        return dropped

    def _end(self, workers: Sequence[_Worker[Reply]]) -> None:
        for worker in workers:
            del self._workers[worker.connection]
            worker.connection.close()
            worker.process.kill()
            worker.process.wait()


@dataclass
class _Worker(Generic[Reply]):
    process: subprocess.Popen[bytes]
    connection: Connection
    deadline: float | None
    """Time (of `monotonic`) by which it must have said something; None while it has nothing to do."""
    ready: bool = False
    """True once the worker has imported what it needs, and has said so."""
    request: Request[Reply] | None = None
    """Request that the worker is at work on."""


def _limit_transfers(connection: Connection) -> None:
    """Make reading and writing fail with an OSError where the other side does not go on with it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as shared:
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            shared.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(TRANSFER_SECONDS), 0))
