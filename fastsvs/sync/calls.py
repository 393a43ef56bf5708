"""The same call on several servers at a time, each on a thread of its own and with one deadline for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from fastsvs.errors import EngineFailure
from fastsvs.sync.routes import RefusedError, Routes, UnreachableError

T = TypeVar("T")
SLOWEST_POLL = 2e-3


class Deadline:
    """Time at which an update must be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raise TimeoutError once the deadline has passed."""
        if not self.left():
            raise TimeoutError("the update took longer than sync.timeout_seconds")


class ServersFailedError(Exception):
    """Calls on some servers failed."""

    def __init__(self, failures: dict[str, RefusedError | UnreachableError]) -> None:
        super().__init__("; ".join(f"{name}: {error}" for name, error in failures.items()))
        self.failures = failures
        """Failures by the server's name."""


class Calls(Generic[T]):
    """Calls `call(routes)` that run for each of `servers` from now on. The threads do not delay the end of the
    process."""

    def __init__(self, servers: Sequence[Routes], call: Callable[[Routes], T]) -> None:
        self._results: dict[str, T] = {}
        self._failures: dict[str, RefusedError | UnreachableError] = {}
        self.own: EngineFailure | None = None
        """Fault of this process, for which no server is to be blamed."""
        self._threads = {
            server.endpoint.name: threading.Thread(target=self._run, args=(server, call), daemon=True)
            for server in servers
        }
        for thread in self._threads.values():
            thread.start()

    def check(self) -> None:
        """Raise ServersFailedError when a call has failed by now, and EngineFailure where this process is at fault."""
        if self.own:
            raise self.own
        if self._failures:
            raise ServersFailedError(dict(self._failures))

    def settle(self, seconds: float) -> dict[str, RefusedError | UnreachableError]:
        """Wait up to `seconds` for all calls to end, and return the failures; a call that has not ended is one."""
        deadline = Deadline(seconds)
        for thread in self._threads.values():
            thread.join(deadline.left())
        running = {
            name: UnreachableError("no answer in time") for name, thread in self._threads.items() if thread.is_alive()
        }
        return running | dict(self._failures)

    def done(self) -> dict[str, T]:
        """Return the results that have come so far, by the server's name."""
        return dict(self._results)

    def results(self, deadline: Deadline) -> list[T]:
        """Wait for all calls, and return their results in the order of the servers. Raises ServersFailedError when one
        failed, and EngineFailure where this process is at fault."""
        failures = self.settle(deadline.left())
        if self.own:
            raise self.own
        if failures:
            raise ServersFailedError(failures)
        return [self._results[name] for name in self._threads]

    def _run(self, server: Routes, call: Callable[[Routes], T]) -> None:
        try:
            self._results[server.endpoint.name] = call(server)
        except (RefusedError, UnreachableError) as error:
            self._failures[server.endpoint.name] = error
        except EngineFailure as error:
            self.own = error
        except Exception as error:  # a bug of ours must not look like a call that never ended
            self._failures[server.endpoint.name] = UnreachableError(repr(error))


def wait_until(done: Callable[[], bool], check: Callable[[], None]) -> None:
    """Sleep until `done` returns True; `check` raises what ends the wait early."""
    pause, since_check = 5e-5, 0.0
    while not done():
        time.sleep(pause)
        since_check += pause
        pause = min(2 * pause, SLOWEST_POLL)
        if since_check >= 0.02:
            check()
            since_check = 0.0
