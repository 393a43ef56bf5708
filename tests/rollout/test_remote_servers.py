"""Servers on other nodes, ordered through the job's store: real processes behind a real TCP store."""

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
import torch.distributed as dist

from fastsvs.errors import EngineFailure
from fastsvs.rollout.vllm import remote
from fastsvs.rollout.vllm.member import StartError


@dataclass
class Sleeper:
    """A server whose process only sleeps."""

    name: str
    ours: bool = True
    trace: str = "nowhere"
    process: subprocess.Popen | None = None
    started: list[int] = field(default_factory=list)

    async def start(self) -> str:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.started.append(self.process.pid)
        return f"http://{self.name}:{self.process.pid}"

    def exited(self) -> str | None:
        status = self.process.poll() if self.process else None
        return None if status is None else f"status {status}"

    async def stop(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(remote, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(remote, "HEARTBEAT_SECONDS", 0.05)


def job(store, servers, main) -> None:
    """`main(remote servers)` beside the agent of `servers`."""

    async def run() -> None:
        agent = asyncio.create_task(remote.obey(remote.Control(store), servers))
        control = remote.Control(store)
        heartbeat = remote.Heartbeat(control)
        try:
            await main([remote.RemoteServer(server.name, control) for server in servers])
        finally:
            await asyncio.to_thread(heartbeat.stop)
            await asyncio.wait_for(agent, 20)

    asyncio.run(run())


@pytest.mark.usefixtures("quick")
def test_servers_start_stop_and_start_again(store):
    servers = [Sleeper("one"), Sleeper("two")]

    async def main(there) -> None:
        urls = [await server.start() for server in there]
        assert urls == [f"http://{server.name}:{server.started[0]}" for server in servers]
        assert [server.exited() for server in there] == [None, None]
        await there[0].stop()
        assert servers[0].process is None
        assert await there[0].start() == f"http://one:{servers[0].started[1]}"
        assert len(servers[1].started) == 1

    job(store, servers, main)
    assert [server.process for server in servers] == [None, None]


@pytest.mark.usefixtures("quick")
def test_the_end_of_a_process_is_told_once_it_is_seen(store):
    servers = [Sleeper("one")]

    async def main(there) -> None:
        await there[0].start()
        servers[0].process.kill()
        deadline = time.monotonic() + 10
        while there[0].exited() is None and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert there[0].exited() == "status -9"
        await there[0].start()
        assert there[0].exited() is None

    job(store, servers, main)


@pytest.mark.usefixtures("quick")
def test_a_silent_main_rank_ends_the_servers(store, monkeypatch):
    monkeypatch.setattr(remote, "SILENCE_SECONDS", 0.3)
    server = Sleeper("one")
    control = remote.Control(store)
    control.put("one/order", {"number": 1, "run": True})
    with pytest.raises(EngineFailure, match="silent"):
        asyncio.run(remote.obey(control, [server]))
    assert server.process is None
    assert len(server.started) == 1


@pytest.mark.usefixtures("quick")
def test_a_node_that_does_not_answer_is_named(store, monkeypatch):
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.1)
    with pytest.raises(StartError, match="one: its node has not answered"):
        asyncio.run(remote.RemoteServer("one", remote.Control(store)).start())
