"""Assignment of samples to servers: least loaded first, a group together, every sample counted exactly once. It does no
I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field

from fastsvs.rollout.engine import Request, Rollout


@dataclass(eq=False, slots=True)
class Group:
    """A request whose samples have not all arrived."""

    request: Request
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    server: str | None = None
    """Server that has the group's prompt in its prefix cache."""


@dataclass(eq=False, slots=True)
class Call:
    """Samples of one group that are asked for in one HTTP request."""

    group: Group
    samples: range
    lost: int = 0
    """Number of client processes that have died over it."""


class Dispatcher:
    """Queue of calls, which is not thread-safe. A call is either waiting, or in flight on one server, or gone; its
    samples count only when it completes."""

    def __init__(self, samples_per_call: int, window: int) -> None:
        """Create an empty queue. A server gets new calls while fewer than `window` samples are in flight on it."""
        self._samples_per_call = samples_per_call
        self._window = window
        self._waiting: deque[Call] = deque()
        self._in_flight: dict[Call, str] = {}
        self._loads: Counter[str] = Counter()
        """Number of samples in flight on each server."""
        self._groups: dict[str, Group] = {}

    def add(self, request: Request) -> None:
        group = self._groups[request.key] = Group(request)
        numbers, step = request.numbers, self._samples_per_call
        starts = range(0, request.samples, step)
        behind = not self._waiting or self._waiting[-1].group.request.priority <= request.priority
        self._waiting += [Call(group, numbers[start : start + step]) for start in starts]
        if not behind:
            self._waiting = deque(sorted(self._waiting, key=lambda call: call.group.request.priority))

    def drop(self, keys: Collection[str]) -> list[Call]:
        """Forget these groups, and return their calls in flight, which nobody needs any more."""
        gone = {id(group) for key in keys if (group := self._groups.pop(key, None))}
        self._waiting = deque(call for call in self._waiting if id(call.group) not in gone)
        cancelled = [call for call in self._in_flight if id(call.group) in gone]
        for call in cancelled:
            self._land(call)
        return cancelled

    def assign(self, servers: Collection[str]) -> list[tuple[Call, str]]:
        """Assign waiting calls to `servers`, and return those that can go out now, each with its server."""
        assigned = []
        while self._waiting:
            free = [server for server in sorted(servers) if self._loads[server] < self._window]
            if not free:
                break
            call = self._waiting.popleft()
            group = call.group
            group.server = group.server if group.server in free else min(free, key=self._loads.__getitem__)
            self._in_flight[call] = group.server
            self._loads[group.server] += len(call.samples)
            assigned.append((call, group.server))
        return assigned

    def complete(self, call: Call, rollouts: list[Rollout]) -> list[Rollout] | None:
        """Count the samples of a call in flight. Return all samples of its group, in sample order, when these were the
        last, else None."""
        self._land(call)
        group = call.group
        group.rollouts.update(zip(call.samples, rollouts, strict=True))
        if len(group.rollouts) < group.request.samples:
            return None
        del self._groups[group.request.key]
        return [group.rollouts[number] for number in group.request.numbers]

    def give_back(self, call: Call) -> None:
        """Put a call that failed in flight back, before all others that wait."""
        self._land(call)
        self._waiting.appendleft(call)

    def calls_on(self, server: str) -> list[Call]:
        return [call for call, where in self._in_flight.items() if where == server]

    def load(self, server: str) -> int:
        """Return the number of samples in flight on `server`."""
        return self._loads[server]

    def waiting(self) -> int:
        """Return the number of samples that no server has yet."""
        return sum(len(call.samples) for call in self._waiting)

    def _land(self, call: Call) -> None:
        self._loads[self._in_flight.pop(call)] -= len(call.samples)
