"""Persistent processes that check answers, each of which may die over one at any time.

A worker has one answer at a time, so it is known which one it died over, and its deadline (its own timer) counts
nothing but the check: time spent waiting for a free worker is no part of it. Workers are plain subprocesses that
import neither torch nor the program's main module; they end by themselves when the trainer does.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from fastsvs.errors import UserError
from fastsvs.verify.verdict import Verdict

Job = tuple[str, str]
"""(answer, gold answer)"""
START_ATTEMPTS = 3


class WorkerPool:
    """Up to `size` workers, started when there is something for them to do. For one thread at a time."""

    def __init__(self, size: int, seconds: float) -> None:
        self._size = size
        self._seconds = seconds
        self._workers: dict[Connection, _Worker] = {}
        self._failed_starts = 0

    def run(self, jobs: Sequence[Job]) -> list[Verdict]:
        """A verdict for each job; UNVERIFIED for one that its worker did not survive.

        Raises UserError when workers cannot be started.
        """
        verdicts = [Verdict.UNVERIFIED] * len(jobs)
        waiting = deque(range(len(jobs)))
        try:
            while waiting or self._busy():
                self._start(min(self._size, len(waiting) + len(self._busy())) - len(self._workers))
                self._hand_out(jobs, waiting)
                self._take_in(verdicts)
        finally:
            self._end(self._busy())
        return verdicts

    def close(self) -> None:
        self._end(list(self._workers.values()))

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.job is not None]

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

    def _hand_out(self, jobs: Sequence[Job], waiting: deque[int]) -> None:
        for worker in list(self._workers.values()):
            if waiting and worker.ready and worker.job is None:
                try:
                    worker.connection.send(jobs[waiting[0]])
                    worker.job = waiting.popleft()
                except OSError:
                    self._end([worker])

    def _take_in(self, verdicts: list[Verdict]) -> None:
        """Wait until a worker has something to say: that it is ready, a verdict, or that it has died."""
        expected = [w.connection for w in self._workers.values() if w.job is not None or not w.ready]
        for connection in wait(expected):
            worker = self._workers[connection]  # type: ignore[index]
            try:
                verdict = worker.connection.recv()
            except (EOFError, OSError):
                self._lose(worker)
                continue
            if worker.job is not None:
                verdicts[worker.job] = verdict
                worker.job = None
            worker.ready = True
            self._failed_starts = 0

    def _lose(self, worker: _Worker) -> None:
        self._end([worker])
        self._failed_starts += not worker.ready
        if self._failed_starts == START_ATTEMPTS:
            raise UserError(
                f"the verifier's processes do not start (exit status {worker.process.returncode}): does "
                f"`{sys.executable} -c 'import math_verify'` work?"
            )

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
    job: int | None = None
    """Which of the jobs it is checking."""
