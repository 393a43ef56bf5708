"""Servers on other nodes of the job: the main rank orders them through the job's store, an agent there obeys.

Every order has a number. `order` is the newest one (start, or stop); the agent answers a start with `url/<number>` and
says in `exited/<number>` when that process has ended by itself. Main rank and agents let one another know that they
live, from before anything that takes long until their end: as long as the other's heart beats, each waits for it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch.distributed as dist

from fastsvs.errors import EngineFailure
from fastsvs.rollout.vllm.member import StartError
from fastsvs.rollout.vllm.server import Server

LOOK_SECONDS = 0.2
ANSWER_SECONDS = 60.0
"""Longest wait for an agent to obey, in seconds; then it counts as gone."""
BEGIN_SECONDS = 600.0
"""Longest wait for another node's first heartbeat, in seconds: all nodes of a job need not start at once."""
API_KEY = "api_key"
HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 60.0
"""Longest time without a heartbeat, in seconds; then a node counts as gone."""
MAIN = 0
"""Number of the main rank's node."""


class Control:
    """Keys and values that the main rank and the agents of the nodes share, for the time of one engine."""

    def __init__(self, store: dist.Store, number: int = 0) -> None:
        """Copy `store`, which is the job's own, because threads may not share a connection. `number` is that of the
        engine: a job may open several, one after another, and the end of one is not the end of the next."""
        self._store = dist.PrefixStore(f"rollout servers/{number}", store.clone())  # type: ignore[attr-defined]

    def put(self, key: str, value: object) -> None:
        self._store.set(key, json.dumps(value))

    def get(self, key: str) -> object:
        """Return the value of `key`, or None if there is none."""
        return json.loads(self._store.get(key)) if self._store.check([key]) else None

    def servers_of(self, node: int) -> list[RemoteServer]:
        """Return the servers that the agent of `node` offers, for which it waits as long as that node lives. Raises
        EngineFailure when the node is silent or cannot have any."""
        pulse = Pulse(self, node)
        while (offer := self.get(f"{node}/servers")) is None:
            pulse.check()
            time.sleep(LOOK_SECONDS)
        if not isinstance(offer, list):
            raise EngineFailure(f"node {node} of the job cannot start its rollout servers: {offer}")
        return [RemoteServer(name, self) for name in offer]

    async def wait(self, key: str, seconds: float) -> object:
        """Wait up to `seconds` for `key`, and return its value, or None if there is none by then."""
        deadline = time.monotonic() + seconds
        while (value := self.get(key)) is None and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)
        return value


class Pulse:
    """Watch over the heartbeat of a node."""

    def __init__(self, control: Control, node: int) -> None:
        self._control, self._node = control, node
        self._beat: object = None
        self._heard = time.monotonic()

    def check(self) -> None:
        """Raise EngineFailure when the node is silent: for SILENCE_SECONDS, or BEGIN_SECONDS before its first beat."""
        if (beat := self._control.get(_heartbeat(self._node))) != self._beat:
            self._beat, self._heard = beat, time.monotonic()
        limit = BEGIN_SECONDS if self._beat is None else SILENCE_SECONDS
        if time.monotonic() - self._heard > limit:
            name = "the main node" if self._node == MAIN else f"node {self._node} of the job"
            done = "has not begun" if self._beat is None else "has been silent"
            raise EngineFailure(f"{name} {done} for {limit:g} s: rollout servers cannot go on without it")


@contextmanager
def heartbeat(control: Control, node: int) -> Iterator[None]:
    """Let other nodes know that `node` lives, by a thread that beats until the end or until this process dies. The end
    of the main node ends all agents."""
    over = threading.Event()

    def beat() -> None:
        count = 0
        with suppress(RuntimeError):  # the store is gone, and with it the job: all who wait for it hear of that
            while not over.is_set():
                count += 1
                control.put(_heartbeat(node), count)
                over.wait(HEARTBEAT_SECONDS)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if node == MAIN:
            control.put("over", True)


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


def serve(control: Control, node: int, servers: Callable[[str], Sequence[Server]]) -> None:
    """Offer and run the `servers` of `node` as its agent until the main rank ends it; they need what the main rank says
    of the API key.

    Raises EngineFailure when the main rank falls silent. No server is left running in either case.
    """
    pulse = Pulse(control, MAIN)
    while not isinstance(told := control.get(API_KEY), str):
        if control.get("over"):
            return
        pulse.check()
        time.sleep(LOOK_SECONDS)
    try:
        own = servers(told)
    except Exception as error:  # the main rank waits for the offer
        control.put(f"{node}/servers", str(error))
        raise
    control.put(f"{node}/servers", [server.name for server in own])
    asyncio.run(obey(control, own, pulse))


async def obey(control: Control, servers: Sequence[Server], pulse: Pulse) -> None:
    """Run `servers` as the main rank orders until it says that the job is over. Raises EngineFailure when the main
    rank falls silent."""
    done = {server.name: 0 for server in servers}
    try:
        while control.get("over") is None:
            pulse.check()
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


def _heartbeat(node: int) -> str:
    return f"heartbeat/{node}"
