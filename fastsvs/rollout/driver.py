"""Work that drives the rollout engine: on all ranks together, or on the main rank while the others stand by.

A collective engine is driven by every rank, when the work's result is asked for. Any other engine is driven by threads
of the main rank, one for each piece of work, from the start on, beside whatever the ranks do until they need the
result. While they wait for it the main rank gives the orders: wait on, or publish the weights again, because a server
was restarted and has none.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Generic, Literal, TypeVar

from fastsvs import distributed, preemption
from fastsvs.errors import EngineFailure, Preempted, UserError
from fastsvs.rollout.engine import Engine, Inference
from fastsvs.rollout.registry import ENGINES
from fastsvs.rollout.shared import SharedEngine
from fastsvs.rollout.spec import EngineSpec
from fastsvs.sync import WeightSync

T = TypeVar("T")
Parts = Callable[[Inference, Callable[[], bool]], Iterator[T]]
"""Function that does the work and yields its parts. It is called with the engine, as if it were alone with it, and with
a function that says whether the parts are no longer wanted; then it raises CancelledError."""
Work = Callable[[Inference, Callable[[], bool]], T]
"""Function that does work of one part, which it returns."""
LOOK_SECONDS = 0.2
"""Time between two looks at the servers while the ranks wait, in seconds."""
CLOSE_SECONDS = 30.0
"""Longest wait for cancelled work to end, in seconds."""


@contextmanager
def open_rollouts(
    spec: EngineSpec, sync_of: Callable[[Engine], WeightSync], timeout_seconds: float
) -> Iterator[Rollouts]:
    """Build the engine of `spec`, the sync that brings weights to it, and the driver of both; close them in the end."""
    engine = ENGINES.get(spec.rollout.engine).build(spec)
    with closing(engine), closing(sync_of(engine)) as sync, closing(Rollouts(engine, sync, timeout_seconds)) as driver:
        yield driver


class Rollouts:
    """Driver of an engine and of the sync that brings weights to it. Every method is collective."""

    def __init__(self, engine: Engine, sync: WeightSync, timeout_seconds: float) -> None:
        """Drive `engine`. `timeout_seconds` is the ranks' longest wait for one another; the work itself may take
        longer."""
        self.engine = engine
        self.sync = sync
        self._timeout = timeout_seconds
        self._shared = SharedEngine(engine)
        self._running: list[Running] = []
        self._busy = BusyClock()

    def start(self, work: Work[T]) -> Running[T]:
        """Begin work of one part. See `start_parts`."""

        def parts(engine: Inference, unwanted: Callable[[], bool]) -> Iterator[T]:
            yield work(engine, unwanted)

        return self.start_parts(parts)

    def start_parts(self, work: Parts[T]) -> Running[T]:
        """Begin the work, as far as the engine allows. Work on a collective engine must be over before the next
        begins."""
        self._running = [running for running in self._running if not running.over()]
        if self._running and self.engine.collective:
            raise ValueError("the engine is still at work")
        view = self.engine if self.engine.collective else self._shared.view()
        running: Running[T] = Running(work, view, self.engine, self.sync, self._timeout, self._busy)
        self._running.append(running)
        return running

    def idle_share(self) -> float:
        """Return the share of the time since the last call in which no work was done, on ranks that do the work."""
        return self._busy.idle_share()

    def close(self) -> None:
        """Cancel all work that is not done, then wait for it."""
        for running in self._running:
            running.cancel()
        deadline = monotonic() + CLOSE_SECONDS
        for running in self._running:
            running.join(deadline - monotonic())


class Running(Generic[T]):
    """Work that was started."""

    def __init__(
        self,
        work: Parts[T],
        view: Inference,
        engine: Engine,
        sync: WeightSync,
        timeout_seconds: float,
        busy: BusyClock,
    ) -> None:
        self._work = work
        self._view = view
        self._engine = engine
        self._sync = sync
        self._timeout = timeout_seconds
        self._busy = busy
        self._cancelled = threading.Event()
        self._parts: deque[T] = deque()
        """Parts that are done and that nobody has taken."""
        self._news = threading.Event()
        """Set whenever a part, or all, is done."""
        self._outcome: Future[None] = Future()
        self.seconds = 0.0
        """Duration of the work in seconds, once it is over; 0 on ranks that stood by."""
        self._thread = threading.Thread(target=self._run, name="rollouts", daemon=True)
        if not engine.collective and distributed.is_main():
            self._thread.start()

    def over(self) -> bool:
        return self._outcome.done()

    def result(self, version: int) -> T | None:
        """Return the only part of the work, or None on ranks that stood by. For `version` see `wait`."""
        self.wait(version)
        return self._parts[0] if self._parts else None

    def part(self, version: int) -> T | None:
        """Return the next part of the work as soon as it is done, or None on ranks that stood by. It waits as `wait`
        does, and raises the same. A collective engine does all of the work for the first part."""
        if self._engine.collective:
            self.wait(version)
        else:
            self._stand_by(version, lambda: bool(self._parts))
        return self._parts.popleft() if self._parts else None

    def wait(self, version: int) -> None:
        """Wait until the work is over. `version` is that of the policy's weights as they are now: restarted servers get
        it.

        With a collective engine it raises what the work raised. With any other engine every rank raises EngineFailure
        when the work ended with something that a user can mend, FloatingPointError when the model has diverged,
        Preempted when a rank was told to end early, and RuntimeError when the work ended with another exception.
        """
        if self._engine.collective:
            if not self.over():
                self._run()
            self._outcome.result()
            return
        self._stand_by(version, lambda: False)
        if not self.over():
            self._outcome.set_result(None)

    def _stand_by(self, version: int, enough: Callable[[], bool]) -> None:
        """Wait until the work is over, or until the main rank has `enough` of it."""
        while (order := distributed.broadcast(self._order(enough) if distributed.is_main() else _WAIT)).kind != "over":
            if order.kind == "refresh":
                self._sync.publish(version)
        if order.error is not None:
            raise order.error from (self._outcome.exception() if self.over() else None)

    def cancel(self) -> None:
        self._cancelled.set()

    def join(self, seconds: float) -> None:
        """Wait at most so long for work that was cancelled to end."""
        if self._thread.is_alive():
            self._thread.join(max(0.0, seconds))

    def _run(self) -> None:
        began = perf_counter()
        try:
            with self._busy:
                for part in self._work(self._view, self._unwanted):
                    self._parts.append(part)
                    self._news.set()
            self.seconds = perf_counter() - began
            self._outcome.set_result(None)
        except BaseException as error:  # whoever asks for the result must hear of it
            self._outcome.set_exception(error)
        finally:
            self._news.set()

    def _unwanted(self) -> bool:
        """Return True when the result is no longer wanted. Ranks that work together hear together of an early end."""
        if self._engine.collective:
            preemption.check()
        return self._cancelled.is_set()

    def _order(self, enough: Callable[[], bool]) -> _Order:
        """Return what all ranks are to do next. The main rank watches the servers until there is something."""
        heartbeat = monotonic() + self._timeout / 4
        while monotonic() < heartbeat:
            if not enough() and not self.over():
                self._news.wait(min(LOOK_SECONDS, self._timeout / 4))
                self._news.clear()
            try:
                if enough():
                    return _Order("over")
                if self.over():
                    self._outcome.result()
                    return _Order("over")
                if preemption.told():
                    return _Order("over", Preempted())
                if self._engine.stale():
                    return _Order("refresh")
            except UserError as error:
                return _Order("over", EngineFailure(str(error)))
            except FloatingPointError as error:
                return _Order("over", error)
            except Exception as error:
                return _Order("over", RuntimeError(f"the main rank's rollouts failed: {type(error).__name__}: {error}"))
        return _WAIT


class BusyClock:
    """A clock that runs while at least one thread is within it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._busy = 0.0
        """Seconds of the time before `_seen` that count and were not asked for."""
        self._seen = self._asked = perf_counter()

    def __enter__(self) -> None:
        self._step(1)

    def __exit__(self, *_: object) -> None:
        self._step(-1)

    def idle_share(self) -> float:
        """Return the share of the time since the last call in which nobody was within."""
        with self._lock:
            self._advance()
            since, busy = self._asked, self._busy
            self._asked, self._busy = self._seen, 0.0
            return 1 - busy / (self._seen - since)

    def _step(self, threads: int) -> None:
        with self._lock:
            self._advance()
            self._within += threads

    def _advance(self) -> None:
        now = perf_counter()
        if self._within:
            self._busy += now - self._seen
        self._seen = now


@dataclass(frozen=True, slots=True)
class _Order:
    """Order from the main rank to all."""

    kind: Literal["wait", "refresh", "over"]
    error: Exception | None = None
    """Error with which the work ended, if it failed."""


_WAIT = _Order("wait")
