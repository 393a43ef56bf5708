"""The life of one server: started, watched, and started again when it fails, until its restarts are used up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from fastsvs.client import NonsenseError, UnreachableError, with_files
from fastsvs.config import ServerConfig
from fastsvs.rollout.vllm.client import HEALTH, PAUSED, Client
from fastsvs.rollout.vllm.server import Server
from fastsvs.sync import Endpoint

LOG = logging.getLogger(__name__)
START_POLL_SECONDS = 0.5
PROBE_SECONDS = 2.0
LONGEST_BACKOFF_SECONDS = 30.0
DOUBTS = 3
"""Number of times in a row that requests may fail on a server that passes its health check; then it counts as
failed."""
AWAY_SECONDS = 30.0
"""Longest wait for an external server to answer before it counts as away, in seconds."""
PORT_TRIES = 3
PORT_TAKEN = "address already in use"

State = Literal["starting", "up", "away", "lost"]
"""State of a server. `away` is an external server that does not answer; `lost` is one that failed once more than it
may."""


class StartError(Exception):
    """The server did not start."""


class Member:
    """A server of the fleet. All methods run in the fleet's event loop."""

    def __init__(
        self, server: Server, client: Client, config: ServerConfig, api_key: str, changed: Callable[[Member], None]
    ) -> None:
        """Prepare to run `server`. `changed` is called after every change that waiting or sending code needs to know
        of."""
        self.name = server.name
        self.ours = server.ours
        self.state: State = "starting"
        self.endpoint: Endpoint | None = None
        """Endpoint of the server while it is up, else None."""
        self.version: int | None = None
        """Version of the weights that it is known to hold."""
        self.updating_until = 0.0
        """Time until which it may be receiving weights, so that its engine need not answer; in seconds of the monotonic
        clock."""
        self.asleep = False
        self.restarts = 0
        self.incarnation = 0
        self.failure = ""
        """Reason why it is not up."""
        self._server = server
        self._client = client
        self._config = config
        self._api_key = api_key
        self._changed = changed
        self._alarm = asyncio.Event()
        self._reported: str | None = None
        self._suspicion: str | None = None
        self._doubts = 0
        self._unavailable = 0.0
        self._down_since: float | None = None

    def serves(self, version: int | None) -> bool:
        """Return True when it may get requests for weights of this version."""
        up = self.state == "up" and not self.asleep and self._suspicion is None and self._reported is None
        return up and version is not None and self.version == version

    def fail(self, reason: str) -> None:
        """Restart it, or avoid it if it is not ours."""
        if self.state == "up" and self._reported is None:
            self._reported = reason
            self._alarm.set()

    def suspect(self, reason: str) -> None:
        """Note that a request failed: the server gets nothing new before it has passed a health check."""
        self._suspicion = reason
        self._alarm.set()

    def answered(self) -> None:
        """Note that a request succeeded."""
        self._doubts = 0

    def wake(self) -> None:
        """Mark it as awake and without its weights; to the weight sync that is as good as a restart."""
        assert self.endpoint is not None
        self.asleep, self.version = False, None
        self.incarnation += 1
        self.endpoint = replace(self.endpoint, incarnation=self.incarnation)

    def unavailable_seconds(self) -> float:
        """Return the seconds that it has been unavailable in all, without its first start."""
        running = 0.0 if self._down_since is None else time.monotonic() - self._down_since
        return self._unavailable + running

    async def live(self) -> None:
        """Run the server until it is lost."""
        try:
            while self.state != "lost":
                if self.restarts > 1:
                    await asyncio.sleep(min(LONGEST_BACKOFF_SECONDS, 2.0**self.restarts))
                try:
                    await self._start()
                    reason = await self._watch()
                except StartError as error:
                    reason = str(error)
                self._go_down(reason)
                await self._server.stop()
        finally:
            await self._server.stop()

    async def _start(self) -> None:
        for attempt in range(PORT_TRIES):
            url = await with_files(self._server.start, f"start {self.name}")
            endpoint = Endpoint(self.name, url, self._api_key, self.incarnation + 1)
            try:
                await self._wait_until_healthy(endpoint)
            except StartError as error:
                if attempt + 1 == PORT_TRIES or PORT_TAKEN not in str(error).lower():
                    raise
                continue
            break
        self.incarnation += 1
        if self._down_since is not None:
            self._unavailable += time.monotonic() - self._down_since
            self._down_since = None
        self.endpoint, self.state = endpoint, "up"
        self.asleep = False
        self.updating_until = 0.0
        self._reported = self._suspicion = None
        self._doubts = 0
        self._alarm.clear()
        self._changed(self)

    async def _wait_until_healthy(self, endpoint: Endpoint) -> None:
        patience = self._config.start_timeout_seconds
        deadline = time.monotonic() + (patience if self.ours else min(patience, AWAY_SECONDS))
        while True:
            if reason := self._server.exited():
                raise StartError(f"did not start: {reason}")
            with suppress(UnreachableError, NonsenseError, TimeoutError):
                await self._client.probe(endpoint, HEALTH, PROBE_SECONDS)
                break
            if time.monotonic() > deadline:
                if self.ours:
                    raise StartError(f"was not healthy after {patience:g} s")
                self._set_away()
            await asyncio.sleep(START_POLL_SECONDS if self.ours else PROBE_SECONDS)
        try:
            if not self.ours:
                if not self._config.unguarded:
                    await self._client.check_guard(endpoint)
                await self._client.check_settings(endpoint)
                return
            async with asyncio.timeout(max(deadline - time.monotonic(), 1)):
                await self._client.warm_up(endpoint)
        except (UnreachableError, NonsenseError, TimeoutError) as error:
            raise StartError(f"failed its first request: {self._server.exited() or error!r}") from error

    async def _watch(self) -> str:
        """Watch the server until it fails, and return the reason."""
        assert self.endpoint is not None
        period = min(PROBE_SECONDS, self._config.stall_timeout_seconds / 4)
        heard = time.monotonic()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._alarm.wait(), period)
            self._alarm.clear()
            if reason := self._reported or self._server.exited():
                return reason
            suspicion = self._suspicion
            try:
                path = HEALTH if time.monotonic() < self.updating_until else PAUSED
                await self._client.probe(self.endpoint, path, period)
            except TimeoutError:
                if time.monotonic() - heard > self._config.stall_timeout_seconds:
                    return f"answered no health check for {self._config.stall_timeout_seconds:g} s"
                continue
            except (UnreachableError, NonsenseError) as error:
                return self._server.exited() or f"failed its health check: {error}"
            heard = time.monotonic()
            if suspicion is not None:
                self._doubts += 1
                if self._doubts >= DOUBTS:
                    return f"fails requests, though it passes its health checks: {suspicion}"
                self._suspicion = None
                self._changed(self)

    def _go_down(self, reason: str) -> None:
        never_up = self.incarnation == 0
        reason = f"{reason} (see {self._server.trace})"
        self.failure, self.endpoint, self.version = reason, None, None
        self._down_since = self._down_since or time.monotonic()
        if never_up or self.restarts == self._config.max_restarts:
            self.state = "lost"
            LOG.error("%s is given up after %d restart(s): %s", self.name, self.restarts, reason)
        else:
            self.restarts += 1
            self.state = "starting" if self.ours else "away"
            LOG.warning("%s: restart %d of %d: %s", self.name, self.restarts, self._config.max_restarts, reason)
        self._changed(self)

    def _set_away(self) -> None:
        if self.state != "away":
            self.state = "away"
            self.failure = "it does not answer"
            LOG.warning("%s does not answer", self.name)
            self._changed(self)
