"""The main rank's half of an update: which servers lack the weights, and how they get them.

pause -> start -> (update call of every server, while buckets are sent) -> finish with the version's number -> resume;
staged: (buckets are sent to servers that go on) -> pause -> start -> update call -> finish -> resume
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastsvs.buckets import Bucket, checksum, describe
from fastsvs.config import SyncConfig
from fastsvs.errors import EngineFailure
from fastsvs.sync.calls import Calls, Deadline, ServersFailedError
from fastsvs.sync.fleet import Endpoint, ServerFleet, reached_address
from fastsvs.sync.moves import Move, busiest
from fastsvs.sync.outcome import Outcome
from fastsvs.sync.receive import MISMATCH
from fastsvs.sync.routes import RefusedError, Routes, UnreachableError
from fastsvs.sync.shards import Invitation, Shards
from fastsvs.sync.transports import TRANSPORTS, BroadcastTransport, MemoryTransport, TransportName

GRACE_SECONDS = 30.0
"""Longest wait for servers to answer after an update was given up, in seconds; less with a shorter time limit."""
PROBE_SECONDS = 3.0
"""Longest wait for a dead worker to show in its server's health, in seconds."""
log = logging.getLogger(__name__)


class Sender:
    """Sender of one update at a time: call `prepare`, `begin`, `send` for every bucket, and `finish`. Where `prepare`
    says that all ranks send, they join the group before `begin`, and send what is theirs instead of `send`.

    What a server or the network does is no exception but an outcome. After a failure `send` does nothing, so that the
    other ranks' pass over the weights can run to its end.
    """

    def __init__(
        self,
        fleet: ServerFleet,
        buckets: Sequence[Bucket],
        config: SyncConfig,
        transport: TransportName,
        device: torch.device,
        shards: Shards | None = None,
        staged: bool = False,
    ) -> None:
        """Send `buckets` from this rank, or what `shards` plans from all ranks; `staged` to servers that go on."""
        self._fleet = fleet
        self._buckets = buckets
        self._shards = shards
        self._moves: Sequence[Move] | None = None
        self._fallen_back = False
        self._staged = staged
        self._config = config
        self._transport_name: TransportName = transport
        self._device = device
        self._held: dict[tuple[str, int], int] = {}
        self._transport: BroadcastTransport | MemoryTransport | None = None
        self._members: list[tuple[str, int]] = []
        self._receivers: list[Routes] = []
        self._calls: Calls[Any] | None = None
        self._failure: Outcome | None = None
        self.servers = 0
        self.transfer_seconds = self.pause_seconds = 0.0

    def prepare(self, version: int, retry: bool) -> Outcome:
        """Connect to the servers that lack this version; the outcome is "current" when there are none. A `retry` does
        without shards."""
        self._failure = self._calls = None
        endpoints = self._fleet.endpoints(self._config.timeout_seconds)
        lacking = [e for e in endpoints if self._held.get(_key(e)) != version]
        if not lacking and self._fleet.stale():
            lacking = list(endpoints)  # one has lost them without a restart
        if not lacking:
            return Outcome("current")
        self._receivers = [Routes(endpoint) for endpoint in lacking]
        self._deadline = Deadline(self._config.timeout_seconds)  # restarts of servers have their own limit
        invitation = None
        with self.failing():
            if [_key(endpoint) for endpoint in lacking] != self._members or (self._fallen_back and not retry):
                invitation = self._connect(lacking, retry)
        return self._failure or Outcome("ready", shards=self._moves is not None, invitation=invitation)

    def begin(self, handles: Mapping[str, list[dict[str, Any]]], faults: Sequence[str] = ()) -> Outcome:
        """Begin the update, unless other ranks have `faults`: servers pause, or receive while they go on. `handles` are
        those of the slots that workers can open, by device."""
        self._sums: list[int] = []
        update = 0
        if self._failure is None:
            with self.failing():
                self._settle_joining(faults)
                update = self._open.number_update()
                self._info = self._update_info(update, handles)
                self._began = time.monotonic()
                if self._staged:
                    self._everywhere(lambda server, left: server.stage(self._info, left))
                else:
                    self._calls = self._pause()
        return self._failure or Outcome("ready", update=update)

    def send(self, index: int, pieces: Sequence[Tensor]) -> None:
        """Begin to send a bucket; when this returns, all workers have the bucket before it."""
        if self._failure is None:
            with self.failing():
                self._open.begin(index, pieces)
                if self._config.verify:
                    self._sums += _checksums(self._buckets[index], pieces)
                self._open.wait(self.check, under_way=1)

    def finish(self, version: int, faults: Sequence[str] = ()) -> Outcome:
        """Wait for the servers to have all, and have them go on, unless other ranks have `faults`."""
        if self._failure is None:
            with self.failing():
                _raise(faults)
                self._open.wait(self.check, under_way=0)
                if self._config.verify and self._moves is None:
                    self._open.send_sums(self._sums)
                if self._staged:
                    self._open.wait_staged(self.check)
                sent = time.monotonic()
                calls = self._calls = self._calls or self._pause()
                calls.results(self._deadline)
                loaded = time.monotonic()
                self._everywhere(lambda server, left: server.finish_update(version, left))
                self._everywhere(lambda server, left: server.resume(left))
                self.transfer_seconds = (sent if self._staged else loaded) - self._began
                self.pause_seconds = time.monotonic() - self._paused
                self._held |= dict.fromkeys(self._members, version)
                self.servers = len(self._members)
                self._fleet.weights_loaded([name for name, _ in self._members], version)
        return self._failure or Outcome("done")

    def _pause(self) -> Calls[None]:
        """Pause the servers, and have them load what comes or has come. What has come already a server loads as soon as
        it pauses, and waits for no other one."""
        self._paused, left = time.monotonic(), self._deadline.left

        def pause(server: Routes) -> None:
            server.pause("keep", left())
            server.start_update(left())

        def load(server: Routes) -> None:
            if self._staged:
                pause(server)
            server.update(self._info, left())

        if not self._staged:
            Calls(self._receivers, pause).results(self._deadline)
        return Calls(self._receivers, load)

    @property
    def traffic(self) -> tuple[int, int]:
        """Return the number of sending ranks, and the bytes that go through the busiest card."""
        if self._moves is None or self._shards is None:
            return 1, sum(bucket.nbytes for bucket in self._buckets)
        return len({move.sender for move in self._moves}), busiest(self._moves, self._shards.specs)

    def check(self) -> None:
        """Raise what must end the update: a deadline that passed, a server or a rank that failed."""
        self._deadline.check()
        if self._transport is not None:
            self._transport.check()
        if self._calls is not None:
            self._calls.check()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._transport, self._members, self._moves = None, [], None

    @property
    def _open(self) -> BroadcastTransport | MemoryTransport:
        assert self._transport is not None
        return self._transport

    def _connect(self, endpoints: Sequence[Endpoint], retry: bool) -> Invitation | None:
        """Form a group with all workers of these servers, whose ranks follow the order of the servers; or invite all
        ranks to one."""
        self.close()
        counts = self._everywhere(lambda server, left: server.workers(left))
        offsets = {e.name: 1 + sum(counts[:index]) for index, e in enumerate(endpoints)}
        further = [] if self._shards is None else self._shards.addresses
        transport = TRANSPORTS[self._transport_name](
            reached_address(endpoints, further), sum(counts), self._config.timeout_seconds, self._device
        )
        self._transport = transport
        info = transport.init_info() | {
            "bucket_bytes": self._config.bucket_bytes,
            "senders": len(further),
            "sparse": self._config.sparse != "never",
        }

        def join(server: Routes) -> None:
            server.init_transfer(info | {"rank_offset": offsets[server.endpoint.name]}, self._deadline.left())

        self._calls = Calls(self._receivers, join)
        seats = transport.seats(self.check)
        self._members = [_key(endpoint) for endpoint in endpoints]
        self._fallen_back = self._shards is not None and retry
        if self._shards is not None:
            self._moves = None if retry else self._shards.plan(seats)
            transport.tell_routes(self._moves)
            if self._moves is not None:
                return Invitation(transport.address, transport.port, len(further) + len(seats), self._moves)
        transport.join(self.check)
        self._settle_joining(())
        return None

    def _settle_joining(self, faults: Sequence[str]) -> None:
        """Wait for the servers' workers to have joined the group, where they are about to."""
        _raise(faults)
        if self._calls is not None:
            self._calls.results(self._deadline)
            self._calls = None

    def _update_info(self, update: int, handles: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
        if self._moves is None or self._shards is None:
            specs = [spec for bucket in self._buckets for spec in bucket.tensors]
        else:
            specs = self._shards.specs
        return {**describe(specs), "update": update, "verify": self._config.verify, "handles": handles}

    def _everywhere(self, call: Callable[[Routes, float], Any]) -> list[Any]:
        calls = Calls(self._receivers, lambda server: call(server, self._deadline.left()))
        return calls.results(self._deadline)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Turn what a server or the network can cause into a failure of the update, which does not end the run."""
        try:
            yield
        except (ServersFailedError, EngineFailure, OSError, RuntimeError) as error:
            self._failure = self._give_up(error)
        except BaseException:
            self.close()
            raise

    def _give_up(self, error: Exception) -> Outcome:
        """Close the group, wait for the servers to leave it, and report those that do not or are dead."""
        self.close()
        if isinstance(error, EngineFailure):
            return Outcome("fatal", str(error))
        for receiver in self._receivers:
            self._held.pop(_key(receiver.endpoint), None)  # it may have loaded a part of the new ones
        grace = min(GRACE_SECONDS, self._config.timeout_seconds)
        failures: dict[str, RefusedError | UnreachableError] = self._calls.settle(grace) if self._calls else {}
        if isinstance(error, ServersFailedError):
            failures = error.failures | failures
        reason = "; ".join([str(error), *(f"{n}: {f}" for n, f in failures.items() if str(f) not in str(error))])
        log.warning("the weight update failed: %s", reason)
        if MISMATCH in reason:
            return Outcome("fatal", reason)
        lost = {name for name, failure in failures.items() if isinstance(failure, UnreachableError)}
        for endpoint in self._dead(lost):
            self._fleet.report_failure(endpoint, str(failures.get(endpoint.name, error)))
        return Outcome("failed", reason)

    def _dead(self, lost: set[str]) -> list[Endpoint]:
        """Return the receivers that are `lost`, or whose health check fails within PROBE_SECONDS."""
        end = time.monotonic() + PROBE_SECONDS
        while True:
            health = Calls(self._receivers, lambda server: server.healthy(PROBE_SECONDS))
            health.settle(PROBE_SECONDS)
            if health.own:
                return []
            healthy = health.done()
            dead = [r.endpoint for r in self._receivers if r.endpoint.name in lost or not healthy.get(r.endpoint.name)]
            if dead or time.monotonic() > end:
                return dead
            time.sleep(PROBE_SECONDS / 10)


def _raise(faults: Sequence[str]) -> None:
    if faults:
        raise ConnectionError("; ".join(faults))


def _checksums(bucket: Bucket, pieces: Sequence[Tensor]) -> list[int]:
    cut = bucket.pieces()
    return [checksum(t) for piece, data in zip(cut, pieces, strict=True) for _, t in piece.views(data)]


def _key(endpoint: Endpoint) -> tuple[str, int]:
    return endpoint.name, endpoint.incarnation
