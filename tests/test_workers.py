"""The pool of processes that take requests: attempts, workers that are stopped, and messages that nobody takes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from fastsvs import workers
from fastsvs.verify import Verdict
from fastsvs.workers import Attempt, WorkerPool

HALF = r"\boxed{\frac{2}{4}}"


@pytest.fixture
def pool():
    pool = WorkerPool("fastsvs.verify.worker", [], 1, read=Verdict, lost=Verdict.UNVERIFIED)
    yield pool
    pool.close()


def ask(answer: str, wall: float, seconds: float = 60.0) -> Attempt:
    return Attempt([answer, r"\frac12", seconds], wall)


def stop_worker(pool: WorkerPool[Verdict]) -> int:
    """Wait until the worker is ready, stop it, and return its process id."""
    assert pool.submit(ask(HALF, 300)).result() is Verdict.CORRECT
    (worker,) = [worker.process.pid for worker in pool._workers.values()]
    os.kill(worker, signal.SIGSTOP)
    return worker


def test_a_stopped_worker_is_killed_and_its_request_tried_again(pool):
    stopped = stop_worker(pool)
    assert pool.submit(ask(HALF, 0.5), ask(HALF, 300)).result() is Verdict.CORRECT
    assert [worker.process.pid for worker in pool._workers.values()] != [stopped]


def test_a_request_over_which_all_attempts_fail_is_lost(pool):
    stop_worker(pool)
    assert pool.submit(ask(HALF, 0.5)).result() is Verdict.UNVERIFIED
    assert pool.submit(ask(HALF, 300)).result() is Verdict.CORRECT


def test_a_stopped_worker_that_takes_no_message_holds_nobody(pool, monkeypatch):
    monkeypatch.setattr(workers, "TRANSFER_SECONDS", 1)
    stop_worker(pool)
    assert pool.submit(ask(r"\boxed{" + "x" * 4_000_000 + "}", 300)).result() is Verdict.WRONG


def test_a_stopped_worker_does_not_hold_close(pool):
    stop_worker(pool)
    waiting = pool.submit(ask(HALF, 300))
    pool.close()
    assert waiting.cancelled()


def test_time_in_which_a_worker_does_not_compute_does_not_count(pool):
    """It is stopped for longer than its limit of CPU time, as a process on a busy machine is for a while."""
    stopped = stop_worker(pool)
    verdict = pool.submit(ask(HALF, 300, seconds=0.5))
    time.sleep(1.0)
    os.kill(stopped, signal.SIGCONT)
    assert verdict.result() is Verdict.CORRECT


def test_a_failed_attempt_waits_behind_all_other_requests(pool):
    done = []
    hard = r"\boxed{\binom{1000000000}{500000000}}"
    requests = {
        "hard": pool.submit(ask(hard, 300, seconds=0.2), ask(HALF, 300)),
        **{str(n): pool.submit(ask(HALF, 300)) for n in range(3)},
    }
    for name, request in requests.items():
        request.add_done_callback(lambda _, name=name: done.append(name))
    assert {name: request.result() for name, request in requests.items()} == dict.fromkeys(requests, Verdict.CORRECT)
    assert done == ["0", "1", "2", "hard"]
