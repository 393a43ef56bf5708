"""All servers and all requests of a run in one event loop: which server gets what, and what happens when one fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from fastsvs.client import AbortedError, ClientLostError, NonsenseError, UnreachableError
from fastsvs.config import ServerConfig
from fastsvs.errors import EngineFailure
from fastsvs.rollout.engine import Request, Rollout
from fastsvs.rollout.vllm.client import Client
from fastsvs.rollout.vllm.dispatch import Call, Dispatcher
from fastsvs.rollout.vllm.drafts import Drafts
from fastsvs.rollout.vllm.member import Member
from fastsvs.rollout.vllm.server import Server
from fastsvs.sync import Endpoint

COMMAND_SECONDS = 120.0
MOST_LOST = 5
"""Number of client processes that may die over one request; then the engine ends."""
DRAFTED, ACCEPTED = "rollout/drafted_tokens", "rollout/accepted_tokens"
"""Names of the counters of speculative decoding."""
Finished = Callable[[Request, list[Rollout]], None]


class Fleet:
    """The servers of a run. All methods run in the event loop in which it was created."""

    def __init__(
        self,
        servers: Sequence[Server],
        client: Client,
        config: ServerConfig,
        api_key: str,
        dispatcher: Dispatcher,
        finished: Finished,
        failed: Callable[[BaseException], None],
    ) -> None:
        """Start all servers. `finished` is called with each complete group, and `failed` at most once, with the error
        that ends the engine."""
        self._client = client
        self._config = config
        self._dispatcher = dispatcher
        self._finished = finished
        self._failed = failed
        self._members = {server.name: Member(server, client, config, api_key, self._on_change) for server in servers}
        self._version: int | None = None
        self._offered: dict[str, int] = {}
        """Incarnation of each server as the last `endpoints` returned it."""
        self._calls: dict[Call, asyncio.Task[None]] = {}
        self._change = asyncio.Event()
        self._error: BaseException | None = None
        self._patience: asyncio.TimerHandle | None = None
        """Timer that runs while all servers left are external ones that do not answer."""
        self._drafts: Drafts | None = None
        self._tokens = 0
        self._resent = 0
        self._lives = [self._start(member.live()) for member in self._members.values()]

    async def close(self) -> None:
        """Give up all requests, and end the servers that are ours."""
        for task in [*self._calls.values(), *self._lives]:
            task.cancel()
        await asyncio.gather(*self._calls.values(), *self._lives, return_exceptions=True)

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            self._dispatcher.add(request)
        self._send()

    def abort(self, keys: Collection[str]) -> None:
        for call in self._dispatcher.drop(keys):
            self._calls.pop(call).cancel()
        self._send()

    async def sleep(self) -> None:
        """Have all servers free their GPU memory, weights included."""
        for member in self._up():
            member.asleep = True
        await self._command("/sleep?level=2")

    async def wake(self) -> None:
        """Wake all servers, which then need weights."""
        await self._command("/wake_up")
        for member in self._up():
            if member.asleep:
                member.wake()

    async def endpoints(self, timeout: float) -> list[Endpoint]:
        """Return the servers as `VllmEngine.endpoints` does. While they receive weights, their engines need not answer
        health checks."""
        if not self._members:
            raise ValueError("only the main rank's engine has servers")
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while any(member.state == "starting" for member in self._members.values()) and not self._error:
                    await self._change.wait()
        while not self._up() and not self._error:  # bounded by the time a server has to start, or to answer
            await self._change.wait()
        if self._error:
            raise self._error
        if any(member.asleep for member in self._up()):
            await self.wake()
        for member in self._up():
            member.updating_until = time.monotonic() + timeout
            self._offered[member.name] = member.incarnation
        return [member.endpoint for member in self._up() if member.endpoint]

    def report_failure(self, endpoint: Endpoint, reason: str) -> None:
        member = self._members[endpoint.name]
        if member.incarnation == endpoint.incarnation:
            member.fail(reason)

    def weights_loaded(self, names: Collection[str], version: int) -> None:
        self._version = version
        for member in self._members.values():
            member.updating_until = 0.0
            if member.name in names and member.state == "up" and self._offered.get(member.name) == member.incarnation:
                member.version = version
        self._send()

    def stale(self) -> bool:
        return self._version is not None and any(member.version != self._version for member in self._up())

    def metrics(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return gauges, and counters since the start."""
        members = self._members.values()
        gauges: dict[str, float] = {
            "rollout/servers": len(self._up()),
            "rollout/samples_waiting": self._dispatcher.waiting(),
            **{f"rollout/samples_running/{name}": self._dispatcher.load(name) for name in self._members},
        }
        counters: dict[str, float] = {
            "rollout/restarts": sum(member.restarts for member in members),
            "rollout/unavailable_seconds": sum(member.unavailable_seconds() for member in members),
            "rollout/requests_resent": self._resent,
            "rollout/generated_tokens": self._tokens,
        }
        if self._drafts is not None:
            counters |= {DRAFTED: self._drafts.drafted, ACCEPTED: self._drafts.accepted}
        return gauges, counters

    async def look_at_drafts(self) -> None:
        """Have `metrics` count the tokens of speculative decoding up to now."""
        self._drafts = self._drafts or Drafts()
        await self._drafts.look(self._client, self._up())

    def _send(self) -> None:
        """Start all calls that can go out now."""
        if self._error:
            return
        serving = [member.name for member in self._members.values() if member.serves(self._version)]
        for call, name in self._dispatcher.assign(serving):
            self._calls[call] = self._start(self._serve(call, self._members[name]))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._check_ended)
        return task

    def _check_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._end(error)

    async def _serve(self, call: Call, member: Member) -> None:
        assert member.endpoint is not None
        assert member.version is not None
        try:
            rollouts = await self._client.generate(member.endpoint, call, member.version)
        except ClientLostError as error:  # no server's fault
            call.lost += 1
            if call.lost == MOST_LOST:
                raise EngineFailure(
                    f"request {call.group.request.key!r} was lost with {MOST_LOST} client processes: {error}; was "
                    "memory short (the kernel's log)?"
                ) from error
        except AbortedError:
            if time.monotonic() > member.updating_until:
                member.suspect("gives requests up")
        except UnreachableError as error:
            member.suspect(f"request failed: {error}")
        except NonsenseError as error:
            member.fail(str(error))
        else:
            member.answered()
            self._count(call, rollouts)
            self._send()
            return
        self._give_back(call)
        self._send()

    def _count(self, call: Call, rollouts: list[Rollout]) -> None:
        del self._calls[call]
        self._tokens += sum(len(rollout.response_ids) for rollout in rollouts)
        if (group := self._dispatcher.complete(call, rollouts)) is not None:
            self._finished(call.group.request, group)

    def _give_back(self, call: Call) -> None:
        del self._calls[call]
        self._dispatcher.give_back(call)
        self._resent += 1

    def _on_change(self, member: Member) -> None:
        if member.state != "up":
            for call in self._dispatcher.calls_on(member.name):
                self._calls[call].cancel()
                self._give_back(call)
        self._check_that_somebody_is_left()
        self._send()
        self._tell_waiters()

    def _check_that_somebody_is_left(self) -> None:
        members = self._members.values()
        if any(member.ours and member.state == "lost" and not member.incarnation for member in members):
            self._end(EngineFailure(f"a rollout server cannot be started: {self._failures()}"))
        elif all(member.state == "lost" for member in members):
            self._end(EngineFailure(f"no rollout server is left: {self._failures()}"))
        elif not all(member.state in ("lost", "away") for member in members):
            if self._patience:
                self._patience.cancel()
            self._patience = None
        elif self._patience is None:
            seconds = self._config.start_timeout_seconds
            failure = EngineFailure(f"no rollout server has answered for {seconds:g} s: {self._failures()}")
            self._patience = asyncio.get_running_loop().call_later(seconds, self._end, failure)

    def _end(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
            self._failed(error)
            self._tell_waiters()

    def _tell_waiters(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def _command(self, path: str) -> None:
        """Send a POST of `path` to all servers that are up; those that fail are restarted."""
        members = [member for member in self._up() if member.endpoint]
        calls = [self._client.command(member.endpoint, path, COMMAND_SECONDS) for member in members if member.endpoint]
        for member, result in zip(members, await asyncio.gather(*calls, return_exceptions=True), strict=True):
            if isinstance(result, Exception):
                member.fail(f"{path} failed: {result!r}")

    def _up(self) -> list[Member]:
        return [member for member in self._members.values() if member.state == "up"]

    def _failures(self) -> str:
        return "; ".join(f"{member.name}: {member.failure}" for member in self._members.values() if member.failure)
