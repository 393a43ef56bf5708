"""Views of one engine: each piece of work sees what it asked for, whoever waits for the engine at the moment."""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Collection, Sequence

import pytest

from fastsvs.errors import EngineFailure
from fastsvs.rollout import Request, Rollout, SamplingParams
from fastsvs.rollout.shared import EngineView, SharedEngine


class Answering:
    """An engine that answers what it is told to, in any order."""

    collective = False

    def __init__(self) -> None:
        self.asked: dict[str, Request] = {}
        self.fault: Exception | None = None
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()

    def submit(self, requests: Sequence[Request]) -> None:
        self.asked |= {request.key: request for request in requests}

    def abort(self, keys: Collection[str]) -> None:
        for key in keys:
            del self.asked[key]

    def answer(self, key: str) -> None:
        self._done.put(key)

    def poll(self, timeout: float) -> list[tuple[str, list[Rollout]]]:
        if self.fault:
            raise self.fault
        try:
            key = self._done.get(timeout=timeout) if timeout else self._done.get_nowait()
        except queue.Empty:
            return []
        return [(key, [Rollout((int(key[-1]),), (0.0,), "stop", 0)] * self.asked.pop(key).samples)]

    def pending(self) -> int:
        return len(self.asked)


def requests(*keys: str) -> list[Request]:
    return [Request(key, (1,), 2, SamplingParams(), seed=0, priority=5) for key in keys]


def keys_of(view: EngineView, timeout: float = 0.0) -> list[str]:
    return [key for key, _ in view.poll(timeout)]


@pytest.fixture
def engine() -> Answering:
    return Answering()


@pytest.fixture
def shared(engine: Answering) -> SharedEngine:
    return SharedEngine(engine)


def test_equal_keys_of_two_pieces_of_work_are_two_requests(engine: Answering, shared: SharedEngine) -> None:
    one, other = shared.view(), shared.view()
    for view in (one, other):
        view.submit(requests("000001"))
    assert [request.priority for request in engine.asked.values()] == [5, 5]
    assert (one.pending(), other.pending(), engine.pending()) == (1, 1, 2)
    for key in list(engine.asked):
        engine.answer(key)
    assert keys_of(one, 1.0) == ["000001"]
    assert (one.pending(), other.pending()) == (0, 1)
    assert keys_of(other, 1.0) == ["000001"]
    assert keys_of(other) == keys_of(one) == []


def test_what_one_thread_takes_from_the_engine_wakes_the_thread_that_asked(
    engine: Answering, shared: SharedEngine
) -> None:
    waiting, asking = shared.view(), shared.view()
    waiting.submit(requests("000001"))
    asking.submit(requests("000002"))
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda view=view: found.extend(keys_of(view, 30.0))) for view in (waiting, asking)
    ]
    threads[0].start()  # it waits for the engine, for both
    time.sleep(0.05)
    threads[1].start()
    engine.answer(next(key for key in engine.asked if key.endswith("2")))
    threads[1].join(10)
    assert found == ["000002"]
    engine.answer(next(iter(engine.asked)))
    threads[0].join(10)
    assert found == ["000002", "000001"]


def test_a_time_limit_holds_while_another_thread_waits_for_the_engine(engine: Answering, shared: SharedEngine) -> None:
    long, short = shared.view(), shared.view()
    long.submit(requests("000001"))
    short.submit(requests("000002"))
    thread = threading.Thread(target=lambda: long.poll(30.0))
    thread.start()
    time.sleep(0.05)
    assert keys_of(short, 0.1) == []
    engine.answer(next(iter(engine.asked)))
    thread.join(10)
    assert not thread.is_alive()


def test_aborted_work_and_work_that_was_given_up_come_back_to_nobody(engine: Answering, shared: SharedEngine) -> None:
    kept, given_up = shared.view(), shared.view()
    kept.submit(requests("000001", "000002"))
    given_up.submit(requests("000003"))
    kept.abort(["000001"])
    assert (kept.pending(), engine.pending()) == (1, 2)
    del given_up
    gc.collect()
    for key in list(engine.asked):
        engine.answer(key)
    found = [key for _ in range(3) for key in keys_of(kept, 0.1)]
    assert found == ["000002"]


def test_every_piece_of_work_hears_that_the_engine_failed(engine: Answering, shared: SharedEngine) -> None:
    views = [shared.view() for _ in range(2)]
    for view in views:
        view.submit(requests("000001"))
    engine.fault = EngineFailure("server 0 was restarted 3 times")
    for view in views:
        with pytest.raises(EngineFailure, match="restarted 3 times"):
            view.poll(1.0)
