"""The main rank's half of an update: which servers lack the weights, and how they get them.

pause -> start -> (update call of every server, while buckets are sent) -> finish with the version's number -> resume
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import torch
from torch import Tensor

from fastsvs.buckets import Bucket, checksum, describe
from fastsvs.config import SyncConfig
from fastsvs.errors import EngineFailure
from fastsvs.network import local_address
from fastsvs.sync.calls import Calls, Deadline, ServersFailedError
from fastsvs.sync.fleet import Endpoint, ServerFleet
from fastsvs.sync.receive import MISMATCH
from fastsvs.sync.routes import RefusedError, Routes, UnreachableError
from fastsvs.sync.transports import TRANSPORTS, BroadcastTransport, MemoryTransport, TransportName

GRACE_SECONDS = 30.0
"""Longest wait for servers to answer after an update was given up, in seconds; less with a shorter time limit."""
PROBE_SECONDS = 3.0
"""Longest wait for a dead worker to show in its server's health, in seconds."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """Outcome of a step of the main rank, for the ranks that only take part."""

    kind: Literal["current", "ready", "done", "failed", "fatal"]
    reason: str = ""


class Sender:
    """Sender of one update at a time: call `prepare`, `begin`, `send` for every bucket, and `finish`.

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
    ) -> None:
        self._fleet = fleet
        self._buckets = buckets
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

    def prepare(self, version: int) -> Outcome:
        """Connect to the servers that lack this version; the outcome is "current" when there are none."""
        self._failure = self._calls = None
        endpoints = self._fleet.endpoints(self._config.timeout_seconds)
        lacking = [e for e in endpoints if self._held.get(_key(e)) != version]
        if not lacking and self._fleet.stale():
            lacking = list(endpoints)  # one has lost them without a restart
        if not lacking:
            return Outcome("current")
        self._receivers = [Routes(endpoint) for endpoint in lacking]
        self._deadline = Deadline(self._config.timeout_seconds)  # restarts of servers have their own limit
        with self._failing():
            if [_key(endpoint) for endpoint in lacking] != self._members:
                self._connect(lacking)
        return self._failure or Outcome("ready")

    def begin(self, handles: Mapping[str, list[dict[str, Any]]]) -> Outcome:
        """Pause the servers and begin the update. `handles` are those of the slots that workers can open, by device."""
        self._sums: list[int] = []
        with self._failing():
            self._everywhere(lambda server, left: server.pause("keep", left))
            self._everywhere(lambda server, left: server.start_update(left))
            info = self._update_info(handles)
            self._calls = Calls(self._receivers, lambda server: server.update(info, self._deadline.left()))
        return self._failure or Outcome("ready")

    def send(self, index: int, pieces: Sequence[Tensor]) -> None:
        """Begin to send a bucket; when this returns, all workers have the bucket before it."""
        if self._failure is None:
            with self._failing():
                self._open.begin(index, pieces)
                if self._config.verify:
                    self._sums += _checksums(self._buckets[index], pieces)
                self._open.wait(self._check, under_way=1)

    def finish(self, version: int) -> Outcome:
        if self._failure is None:
            with self._failing():
                self._open.wait(self._check, under_way=0)
                if self._config.verify:
                    self._open.send_sums(self._sums)
                assert self._calls is not None
                self._calls.results(self._deadline)
                self._everywhere(lambda server, left: server.finish_update(version, left))
                self._everywhere(lambda server, left: server.resume(left))
                self._held |= dict.fromkeys(self._members, version)
                self.servers = len(self._members)
                self._fleet.weights_loaded([name for name, _ in self._members], version)
        return self._failure or Outcome("done")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._transport, self._members = None, []

    @property
    def _open(self) -> BroadcastTransport | MemoryTransport:
        assert self._transport is not None
        return self._transport

    def _check(self) -> None:
        self._deadline.check()
        if self._calls is not None:
            self._calls.check()

    def _connect(self, endpoints: Sequence[Endpoint]) -> None:
        """Form a group with all workers of these servers, whose ranks follow the order of the servers."""
        self.close()
        counts = self._everywhere(lambda server, left: server.workers(left))
        offsets = {e.name: 1 + sum(counts[:index]) for index, e in enumerate(endpoints)}
        transport = TRANSPORTS[self._transport_name](
            _address(endpoints), sum(counts), self._config.timeout_seconds, self._device
        )
        self._transport = transport
        info = transport.init_info() | {"bucket_bytes": self._config.bucket_bytes}

        def join(server: Routes) -> None:
            server.init_transfer(info | {"rank_offset": offsets[server.endpoint.name]}, self._deadline.left())

        self._calls = Calls(self._receivers, join)
        transport.join(self._check)
        self._calls.results(self._deadline)
        self._calls = None
        self._members = [_key(endpoint) for endpoint in endpoints]

    def _update_info(self, handles: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
        specs = [spec for bucket in self._buckets for spec in bucket.tensors]
        return {
            **describe(specs),
            "update": self._open.number_update(),
            "verify": self._config.verify,
            "handles": handles,
        }

    def _everywhere(self, call: Callable[[Routes, float], Any]) -> list[Any]:
        calls = Calls(self._receivers, lambda server: call(server, self._deadline.left()))
        return calls.results(self._deadline)

    @contextmanager
    def _failing(self) -> Iterator[None]:
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


def _checksums(bucket: Bucket, pieces: Sequence[Tensor]) -> list[int]:
    cut = bucket.pieces()
    return [checksum(t) for piece, data in zip(cut, pieces, strict=True) for _, t in piece.views(data)]


def _key(endpoint: Endpoint) -> tuple[str, int]:
    return endpoint.name, endpoint.incarnation


def _address(endpoints: Sequence[Endpoint]) -> str:
    """Return this machine's address that all servers reach: a private interface's as soon as one of them is on another
    machine."""
    addresses = [local_address(urlsplit(endpoint.url).hostname or "127.0.0.1") for endpoint in endpoints]
    return next((address for address in addresses if not address.startswith("127.")), addresses[0])
