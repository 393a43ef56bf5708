"""Persistent processes that take requests, each of which may die over one at any time.

A worker has one request at a time, so it is known which one it died over, and its deadline (its own timer) counts
nothing but the work: time spent waiting for a free worker is no part of it. Workers are plain subprocesses that
import neither torch nor the program's main module; they end by themselves when the trainer does. A thread of the
trainer feeds them, so that they work while the trainer does something else. Requests and replies are JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from fastsvs.errors import UserError

Reply = TypeVar("Reply")
START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Request(Generic[Reply]):
    message: bytes
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
        message that `greet` gets, then answers every message with one. `read` makes a reply of an answer; when a worker
        dies over a request, the reply is `lost`. `environment` is the whole environment of a worker; without it a
        worker gets the trainer's."""
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
        self._bell, self._ring = Pipe(duplex=False)
        """Pipe that wakes the thread when something was submitted."""
        self._thread: Thread | None = None

    def submit(self, message: Any) -> Future[Reply]:
        """Submit `message`, and return the reply to come; it raises UserError when workers cannot be started."""
        request: Request[Reply] = Request(json.dumps(message).encode(), Future())
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
            with theirs:
                socket = theirs.fileno()
                process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(socket), *self._arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[socket],
                    env={**environment, **path},
                )
            self._workers[ours] = _Worker(process, ours)

    def _hand_out(self) -> None:
        for worker in self._workers.values():
            if self._waiting and worker.ready and worker.request is None:
                with suppress(OSError):  # it has died, which is heard next; the request waits for another
                    worker.connection.send_bytes(self._waiting[0].message)
                    worker.request = self._waiting.popleft()

    def _take_in(self) -> None:
        """Wait for news: a submission, or a worker that is ready, has an answer, or has died, even while idle."""
        for connection in wait([self._bell, *self._workers]):
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
        except (EOFError, OSError):
            self._lose(worker)
            return
        if worker.request is None:
            self._greet(answer)
        else:
            worker.request.reply.set_result(self._read(answer))
            worker.request = None
        worker.ready = True
        self._failed_starts = 0

    def _lose(self, worker: _Worker[Reply]) -> None:
        self._end([worker])
        if worker.request is not None:
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
    ready: bool = False
    """True once the worker has imported what it needs, and has said so."""
    request: Request[Reply] | None = None
    """Request that the worker is at work on."""
