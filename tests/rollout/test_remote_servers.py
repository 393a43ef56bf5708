"""Servers on other nodes, ordered through the job's store: real processes behind a real TCP store."""

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
import torch.distributed as dist

from fastsvs.errors import EngineFailure, UserError
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
        there = remote.Control(store)
        agent = asyncio.create_task(remote.obey(there, servers, remote.Pulse(there, remote.MAIN)))
        control = remote.Control(store)
        with remote.heartbeat(control, remote.MAIN):
            await main([remote.RemoteServer(server.name, control) for server in servers])
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
    control.put("heartbeat/0", 1)
    control.put("one/order", {"number": 1, "run": True})
    with pytest.raises(EngineFailure, match="main node has been silent"):
        asyncio.run(remote.obey(control, [server], remote.Pulse(control, remote.MAIN)))
    assert server.process is None
    assert len(server.started) == 1


def test_a_main_rank_that_never_begins_is_given_up(store, monkeypatch):
    monkeypatch.setattr(remote, "BEGIN_SECONDS", 0.3)
    with pytest.raises(EngineFailure, match="main node has not begun"):
        remote.serve(remote.Control(store), 1, lambda key: [])


def test_the_end_of_the_main_rank_before_it_asks_for_servers_is_no_error(store):
    control = remote.Control(store)
    with remote.heartbeat(control, remote.MAIN):
        pass
    remote.serve(control, 1, lambda key: pytest.fail("nobody asked for servers"))


def test_a_job_opens_one_engine_after_another(store):
    first, second = (remote.Control(store, number) for number in range(2))
    with remote.heartbeat(first, remote.MAIN):
        pass
    assert first.get("over")
    assert not second.get("over")


def test_servers_that_a_node_cannot_have_are_told_to_the_main_rank(store):
    control = remote.Control(store)

    def none(_key: str) -> list:
        raise UserError("3 servers need 6 GPUs")

    control.put(remote.API_KEY, "key")
    with pytest.raises(UserError):
        remote.serve(control, 2, none)
    with pytest.raises(
        EngineFailure, match="node 2 of the job cannot start its rollout servers: 3 servers need 6 GPUs"
    ):
        control.servers_of(2)


SIDE = """
import sys, time
import torch.distributed as dist
from fastsvs.rollout.vllm import remote
port, role, slow = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
remote.HEARTBEAT_SECONDS, remote.SILENCE_SECONDS, remote.BEGIN_SECONDS = 0.1, 1.0, 30.0
control = remote.Control(dist.TCPStore("127.0.0.1", port, is_master=False))
if role == "main":
    with remote.heartbeat(control, remote.MAIN):
        time.sleep(slow)  # it loads inputs and the policy
        control.put(remote.API_KEY, "key")
        print([server.name for server in control.servers_of(1)], flush=True)
else:
    with remote.heartbeat(control, 1):
        def servers(key):
            time.sleep(slow)  # it looks for the model
            return []
        remote.serve(control, 1, servers)
"""
"""Two nodes of a job, either of which takes several times the longest silence to start."""


@pytest.mark.parametrize("killed", [None, "main", "node"])
def test_a_slow_start_is_waited_for_as_long_as_the_other_side_lives(store, killed):
    sides = {
        role: subprocess.Popen(
            [sys.executable, "-c", SIDE, str(store.port), role, "60" if role == killed else "3"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for role in ("main", "node")
    }
    try:
        if killed is None:
            output, errors = sides["main"].communicate(timeout=60)
            assert output == "[]\n", errors
            assert sides["node"].wait(60) == 0
        else:
            while not all(store.check([f"rollout servers/0/heartbeat/{node}"]) for node in range(2)):
                time.sleep(0.05)
            sides[killed].kill()
            survivor = sides["node" if killed == "main" else "main"]
            _, errors = survivor.communicate(timeout=60)
            assert survivor.returncode
            assert {"main": "main node", "node": "node 1 of the job"}[killed] + " has been silent for 1 s" in errors
    finally:
        for side in sides.values():
            side.kill()


@pytest.mark.usefixtures("quick")
def test_a_node_that_does_not_answer_is_named(store, monkeypatch):
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.1)
    with pytest.raises(StartError, match="one: its node has not answered"):
        asyncio.run(remote.RemoteServer("one", remote.Control(store)).start())
