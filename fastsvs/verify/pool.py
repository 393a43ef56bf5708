"""Persistent processes that check answers, each of which may die over one at any time.

A worker has one answer at a time, so it is known which one it died over, and its deadline (its own timer) counts
nothing but the check: time spent waiting for a free worker is no part of it. Workers are plain subprocesses that
import neither torch nor the program's main module; they end by themselves when the trainer does. A thread of the
trainer feeds them, so that they work while the trainer does something else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread

from fastsvs.errors import UserError
from fastsvs.verify.verdict import Verdict

START_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One answer to be compared with the right one, and where its verdict will be."""

    answer: str
    gold: str
    verdict: Future[Verdict]


class WorkerPool:
    """Up to `size` workers, started when there is something for them to do."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._workers: dict[Connection, _Worker] = {}
        self._failed_starts = 0
        self._submitted: SimpleQueue[Check | None] = SimpleQueue()
        """None: the pool is closed."""
        self._waiting: deque[Check] = deque()
        self._closed = False
        self._bell, self._ring = Pipe(duplex=False)
        """Wakes the thread when something was submitted."""
        self._thread: Thread | None = None

    def submit(self, answer: str, gold: str) -> Future[Verdict]:
        """UNVERIFIED when its worker does not survive it; UserError when workers cannot be started."""
        check = Check(answer, gold, Future())
        if self._thread is None:
            self._closed = False
            self._thread = Thread(target=self._serve, name="verifier", daemon=True)
            self._thread.start()
        self._tell(check)
        return check.verdict

    def close(self) -> None:
        """End all workers; what they have not checked is cancelled."""
        if self._thread is not None:
            self._tell(None)
            self._thread.join()
            self._thread = None

    def _tell(self, message: Check | None) -> None:
        self._submitted.put(message)
        self._ring.send_bytes(b"!")

    def _serve(self) -> None:
        """The thread: sleeps until a worker or a submission has something to say."""
        while not self._closed:
            try:
                self._start(min(self._size, len(self._waiting) + len(self._busy())) - len(self._workers))
                self._hand_out()
                self._take_in()
            except Exception as error:  # whoever waits for a verdict must hear of it
                self._give_up(error)
        for check in self._drop_all():
            check.verdict.cancel()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.check is not None]

    def _start(self, number: int) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(number):
            ours, theirs = Pipe()
            with theirs:
                socket = theirs.fileno()
                process = subprocess.Popen(
                    [sys.executable, "-m", "fastsvs.verify.worker", str(socket), str(self._seconds)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[socket],
                    env=environment,
                )
            self._workers[ours] = _Worker(process, ours)

    def _hand_out(self) -> None:
        for worker in list(self._workers.values()):
            if self._waiting and worker.ready and worker.check is None:
                try:
                    worker.connection.send((self._waiting[0].answer, self._waiting[0].gold))
                    worker.check = self._waiting.popleft()
                except OSError:
                    self._end([worker])

    def _take_in(self) -> None:
        """Wait for news: a submission, or a worker that is ready, has a verdict, or has died."""
        expected = [w.connection for w in self._workers.values() if w.check is not None or not w.ready]
        for connection in wait([self._bell, *expected]):
            if connection is self._bell:
                self._collect_submitted()
            else:
                self._hear(self._workers[connection])  # type: ignore[index]

    def _collect_submitted(self) -> None:
        self._bell.recv_bytes()
        check = self._submitted.get()
        if check is None:
            self._closed = True
        else:
            self._waiting.append(check)

    def _hear(self, worker: _Worker) -> None:
        try:
            verdict = worker.connection.recv()
        except (EOFError, OSError):
            self._lose(worker)
            return
        if worker.check is not None:
            worker.check.verdict.set_result(verdict)
            worker.check = None
        worker.ready = True
        self._failed_starts = 0

    def _lose(self, worker: _Worker) -> None:
        self._end([worker])
        if worker.check is not None:
            worker.check.verdict.set_result(Verdict.UNVERIFIED)
        self._failed_starts += not worker.ready
        if self._failed_starts == START_ATTEMPTS:
            self._failed_starts = 0
            raise UserError(
                f"the verifier's processes do not start (exit status {worker.process.returncode}): does "
                f"`{sys.executable} -c 'import math_verify'` work?"
            )

    def _give_up(self, error: Exception) -> None:
        for check in self._drop_all():
            check.verdict.set_exception(error)

    def _drop_all(self) -> list[Check]:
        """End all workers; the checks that nobody will answer any more."""
        dropped = [*(worker.check for worker in self._busy() if worker.check is not None), *self._waiting]
        self._waiting.clear()
        self._end(list(self._workers.values()))
        return dropped

    def _end(self, workers: Sequence[_Worker]) -> None:
        for worker in workers:
            del self._workers[worker.connection]
            worker.connection.close()
            worker.process.kill()
            worker.process.wait()


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: Connection
    ready: bool = False
    """It has imported what it needs, and has said so."""
    check: Check | None = None
    """What it is checking."""
