"""Servers on other nodes of the job: the main rank orders them through the job's store, an agent there obeys.

Every order has a number. `order` is the newest one (start, or stop); the agent answers a start with `url/<number>` and
says in `exited/<number>` when that process has ended by itself. The main rank's heartbeat keeps the agents going.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch.distributed as dist

from fastsvs.errors import EngineFailure
from fastsvs.rollout.vllm.member import StartError
from fastsvs.rollout.vllm.server import Server

LOOK_SECONDS = 0.2
ANSWER_SECONDS = 60.0
"""Longest wait for an agent to obey, in seconds; then it counts as gone."""
OFFER_SECONDS = 600.0
"""Longest wait for another node to begin, in seconds: all nodes of a job need not start at once."""
API_KEY = "api_key"
HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""Longest time without a heartbeat, in seconds; then the main rank counts as gone."""


class Control:
    """Keys and values that the main rank and the agents of the nodes share."""

    def __init__(self, store: dist.Store) -> None:
        """Copy `store`, which is the job's own, because threads may not share a connection."""
        self._store = dist.PrefixStore("rollout servers", store.clone())  # type: ignore[attr-defined]

    def put(self, key: str, value: object) -> None:
        self._store.set(key, json.dumps(value))

    def get(self, key: str) -> object:
        """Return the value of `key`, or None if there is none."""
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def servers_of(self, node: int) -> list[RemoteServer]:
        """Return the servers that the agent of `node` offers. Raises EngineFailure when it offers none in time."""
        names = asyncio.run(self.wait(f"{node}/servers", OFFER_SECONDS))
        if not isinstance(names, list):
            raise EngineFailure(f"node {node} of the job has offered no rollout server within {OFFER_SECONDS:g} s")
        return [RemoteServer(name, self) for name in names]

    async def wait(self, key: str, seconds: float) -> object:
        """Wait up to `seconds` for `key`, and return its value, or None if there is none by then."""
        deadline = time.monotonic() + seconds
        while (value := self.get(key)) is None and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        return value


@dataclass
class RemoteServer:
    """The main rank's handle on a server that the agent of another node runs."""

    name: str
    control: Control
    ours: bool = True
    _number: int = field(default=0, init=False)

    @property
    def trace(self) -> str:
        return f"the log of {self.name} on its node, in the run's folder servers/"

    async def start(self) -> str:
        self._number += 1
        self.control.put(f"{self.name}/order", {"number": self._number, "run": True})
        answer = await self.control.wait(f"{self.name}/url/{self._number}", ANSWER_SECONDS)
        if not isinstance(answer, str):
            raise StartError(f"{self.name}: its node has not answered for {ANSWER_SECONDS:g} s")
        return answer

    def exited(self) -> str | None:
        reason = self.control.get(f"{self.name}/exited/{self._number}")
        return reason if isinstance(reason, str) else None

    async def stop(self) -> None:
        if self._number:
            self._number += 1
            self.control.put(f"{self.name}/order", {"number": self._number, "run": False})
            await self.control.wait(f"{self.name}/url/{self._number}", ANSWER_SECONDS)


class Heartbeat:
    """Thread of the main rank that keeps the agents going until it is stopped or this process dies."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Tell all agents to end."""
        self._over.set()
        self._thread.join()
        self._control.put("over", True)

    def _beat(self) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            self._control.put("heartbeat", count)
            self._over.wait(HEARTBEAT_SECONDS)


def serve(control: Control, node: int, servers: Callable[[str], Sequence[Server]]) -> None:
    """Offer and run the `servers` of `node` as its agent until the main rank ends it; they need the job's API key."""

    async def run() -> None:
        api_key = await control.wait(API_KEY, OFFER_SECONDS)
        if not isinstance(api_key, str):
            raise EngineFailure(f"the main node has not asked for servers within {OFFER_SECONDS:g} s")
        own = servers(api_key)
        control.put(f"{node}/servers", [server.name for server in own])
        await obey(control, own)

    asyncio.run(run())


async def obey(control: Control, servers: Sequence[Server]) -> None:
    """Run `servers` as the main rank orders until it says that the job is over.

    Raises EngineFailure when the main rank falls silent. No server is left running in either case.
    """
    done = {server.name: 0 for server in servers}
    beat, heard = None, time.monotonic()
    try:
        while control.get("over") is None:
            if (now := control.get("heartbeat")) != beat:
                beat, heard = now, time.monotonic()
            if time.monotonic() - heard > SILENCE_SECONDS:
                raise EngineFailure(f"the main node has been silent for {SILENCE_SECONDS:g} s: its servers here end")
            for server in servers:
                done[server.name] = await _follow(control, server, done[server.name])
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


async def _follow(control: Control, server: Server, done: int) -> int:
    """Carry out the newest order unless it is `done`, and return its number."""
    order = control.get(f"{server.name}/order")
    if isinstance(order, dict) and order["number"] > done:
        await server.stop()
        url = await server.start() if order["run"] else ""
        control.put(f"{server.name}/url/{order['number']}", url)
        return order["number"]
    if done and (reason := server.exited()):
        control.put(f"{server.name}/exited/{done}", reason)
    return done
