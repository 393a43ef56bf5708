"""A discrete-event simulation of rollout servers, as an `Engine`: the schedule under test is the real one.

A server decodes all its sequences in lock step. A step takes as long as the throughput curve says for their number.
The server takes requests up to its limit, by priority and then in the order in which they come, each group as a whole
on the least loaded server (as `fastsvs.rollout.vllm` does). Events are the end of a sequence and the arrival of
requests.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count

import numpy as np
from torch import Tensor

from fastsvs.plan.workload import Work
from fastsvs.rollout import Request, Rollout
from fastsvs.selfplay import Schedule


@dataclass(frozen=True)
class Curve:
    """Seconds of one decode step against the number of sequences in it; linear between the points."""

    sequences: tuple[int, ...]
    seconds: tuple[float, ...]
    admission: float = 0.0
    """Time by which taking in one more sequence delays the others, in seconds: its prompt is read, its request
    handled."""

    @cache  # noqa: B019
    def step(self, sequences: int) -> float:
        return float(np.interp(sequences, self.sequences, self.seconds))

    def rate(self, sequences: int) -> float:
        """Return the tokens per second."""
        return sequences / self.step(sequences)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one or more steps."""

    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


@dataclass(slots=True)
class _Server:
    curve: Curve
    limit: int
    now: float = 0.0
    steps: float = 0.0
    """Number of decode steps done so far; a sequence that ends at step s is in `running` as (s, key)."""
    running: list[tuple[float, str]] = field(default_factory=list)
    waiting: list[tuple[int, int, int, str]] = field(default_factory=list)
    """Heap of waiting sequences as (priority, place in the order of arrival, length, key)."""

    def load(self) -> int:
        return len(self.running) + len(self.waiting)

    def next_end(self) -> float:
        """Return the time at which the next sequence ends, infinite when the server is idle."""
        if not self.running:
            return float("inf")
        return self.now + (self.running[0][0] - self.steps) * self.curve.step(len(self.running))

    def advance(self, now: float) -> None:
        """Advance the clock to a moment before or at the next end."""
        if self.running:
            self.steps += (now - self.now) / self.curve.step(len(self.running))
        self.now = now

    def end(self) -> str:
        """End the sequence that ends next, let a waiting one take its place, and return the key of the ended one."""
        self.advance(self.next_end())
        self.steps, key = heapq.heappop(self.running)
        self.admit()
        return key

    def admit(self) -> None:
        while self.waiting and len(self.running) < self.limit:
            _, _, length, key = heapq.heappop(self.waiting)
            heapq.heappush(self.running, (self.steps + length, key))
            self.steps -= self.curve.admission / self.curve.step(len(self.running))


class SimulatedEngine:
    """An engine whose clock is the simulation's."""

    collective = False
    fleet = None

    def __init__(self, workload: Work, curve: Curve, servers: int, max_sequences: int) -> None:
        self.workload = workload
        self._servers = [_Server(curve, max_sequences) for _ in range(servers)]
        self._places = count()
        self._left: dict[str, int] = {}
        """Number of samples of each request that have not ended."""
        self._requests: dict[str, Request] = {}
        self.now = 0.0
        self.tokens = 0

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            server = min(self._servers, key=_Server.load)
            server.advance(self.now)
            self._requests[request.key], self._left[request.key] = request, request.samples
            lengths = [self.length(request, sample) for sample in range(request.samples)]
            for length in lengths:
                heapq.heappush(server.waiting, (request.priority, next(self._places), length, request.key))
            server.admit()
            self.tokens += sum(lengths)

    def abort(self, keys: Collection[str]) -> None:
        raise NotImplementedError("nothing is given up in a simulation")

    def poll(self, timeout: float) -> list[tuple[str, list[Rollout]]]:
        """Return the next group to be complete, and set the clock to that moment."""
        while self._left:
            server = min(self._servers, key=_Server.next_end)
            key = server.end()
            self.now = server.now
            self._left[key] -= 1
            if not self._left[key]:
                del self._left[key]
                return [(key, [Rollout((0,), (0.0,), "length", 0)] * self._requests[key].samples)]
        return []

    def pending(self) -> int:
        return len(self._left)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None: ...

    def stale(self) -> bool:
        return False

    def sleep(self) -> None: ...

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None: ...

    def next_end(self) -> float:
        """Return the time at which the next sequence ends, infinite when nothing is under way."""
        return min(map(_Server.next_end, self._servers))

    def length(self, request: Request, sample: int) -> int:
        """Return the tokens of a response."""
        return self.workload.length(request, sample)


def simulate(workloads: Iterable[Work], curve: Curve, servers: int, max_sequences: int, schedule: Schedule) -> Outcome:
    """Simulate the steps one after the other."""
    engines = [SimulatedEngine(workload, curve, servers, max_sequences) for workload in workloads]
    for engine in engines:
        engine.workload.collect(engine, schedule)
    return together([Outcome(engine.now, engine.tokens) for engine in engines])


def together(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of steps that follow one another."""
    return Outcome(sum(o.seconds for o in outcomes), sum(o.tokens for o in outcomes))
