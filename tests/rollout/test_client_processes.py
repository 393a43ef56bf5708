"""The client processes of an engine: what they share, and what happens when one dies, hangs, or does not start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
import speaking_fleet
from speaking_fleet import check_each_sample_once, collect, requests
from speaking_server import SpeakingServer
from waiting import alive, wait_for

from fastsvs.client import pool
from fastsvs.config import ServerConfig
from fastsvs.errors import EngineFailure
from fastsvs.rollout import VllmEngine
from fastsvs.rollout.vllm.client import Client

MODULE = "fastsvs.client.process"
PATIENT = ServerConfig(stall_timeout_seconds=60)


def opened(servers: list[SpeakingServer], processes: int = 2) -> AbstractContextManager[VllmEngine]:
    return speaking_fleet.opened(servers, PATIENT, client_processes=processes)


def clients(owner: int) -> list[int]:
    """The client processes that `owner` has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == owner and MODULE.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            pass
    return found


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_servers_are_shared_and_nothing_is_left(processes: int) -> None:
    servers = [SpeakingServer("a"), SpeakingServer("b")]
    with opened(servers, processes) as engine:
        assert clients(os.getpid()) == []  # none before there is something to do
        asked = requests(60)
        engine.submit(asked)
        check_each_sample_once(collect(engine), asked)
        mine = clients(os.getpid())
        assert len(mine) == min(processes, 2)
    assert not any(map(alive, mine))


def test_connections_are_used_again() -> None:
    """At most as many as samples may be in flight, although there are ten times as many requests."""
    server = SpeakingServer("a")
    with opened([server], 1) as engine:
        asked = requests(320, samples=1)
        engine.submit(asked)
        check_each_sample_once(collect(engine), asked)
    assert server.served == 320
    assert len(server.peers) <= 32


@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP])
def test_the_requests_of_a_process_that_dies_or_hangs_are_asked_again(
    harm: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SILENCE_SECONDS", 10.0)
    servers = [SpeakingServer("a", "slow"), SpeakingServer("b", "slow")]
    with opened(servers) as engine:
        asked = requests(8)
        engine.submit(asked)
        wait_for(lambda: sum(server.calls["/inference/v1/generate"] for server in servers) == 10)  # with the warm-ups
        first, second = clients(os.getpid())
        os.kill(first, harm)
        for server in servers:
            server.manners = "good"
        wait_for(lambda: not alive(first))
        wait_for(lambda: engine.metrics()["rollout/samples_waiting"] == 0)
        with suppress(ProcessLookupError):
            os.kill(second, signal.SIGKILL)  # its requests still wait for slow answers
        check_each_sample_once(collect(engine), asked)
        found = engine.metrics()
        assert sum(server.given_up for server in servers) >= 8
        assert [server.started for server in servers] == [1, 1]
        assert found["rollout/servers"] == 2
        engine.submit(requests(20, first=100))
        check_each_sample_once(collect(engine), requests(20, first=100))


def test_processes_that_never_answer_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MODULE", "fastsvs.client.no_such_module")
    server = SpeakingServer("a")
    with opened([server]) as engine:
        engine.submit(requests(3))
        with pytest.raises(EngineFailure, match=r"client processes .* end again and again .*no_such_module"):
            collect(engine)
    assert server.started == 1


def test_a_request_over_which_process_after_process_dies_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ATTEMPTS", 100)
    server = SpeakingServer("a", "slow")
    with opened([server], 1) as engine:
        engine.submit(requests(1))
        for times in range(2, 7):  # with the warm-up
            wait_for(lambda times=times: server.calls["/inference/v1/generate"] == times)  # type: ignore[misc]
            [client] = clients(os.getpid())
            os.kill(client, signal.SIGKILL)
            wait_for(lambda client=client: not alive(client))  # type: ignore[misc]
        with pytest.raises(EngineFailure, match="request 'r0' was lost with 5 client processes"):
            collect(engine)
    assert server.started == 1


def test_an_error_of_our_own_is_told_with_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SpeakingServer("a")
    with opened([server]) as engine:
        monkeypatch.setattr(Client, "_sampling", lambda client, call: {})
        engine.submit(requests(1))
        with pytest.raises(RuntimeError, match="KeyError"):
            collect(engine)


OWNER = """
import sys, time
sys.path[:0] = sys.argv[1:]
from test_client_processes import SpeakingServer, clients, opened, os, requests
server = SpeakingServer("a", "slow")
with opened([server]) as engine:
    engine.submit(requests(4))
    while server.calls["/inference/v1/generate"] < 5:
        time.sleep(0.05)
    print(*clients(os.getpid()), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["", "that was stopped"])
def test_no_process_outlives_a_trainer_that_is_killed(stopped: bool) -> None:
    here = Path(__file__).parent
    owner = subprocess.Popen([sys.executable, "-c", OWNER, here, here.parent], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    [client] = map(int, owner.stdout.readline().split())
    if stopped:
        os.kill(client, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    if stopped:
        os.kill(client, signal.SIGCONT)
    wait_for(lambda: not alive(client))


def test_a_process_needs_no_torch() -> None:
    program = f"import sys, {MODULE}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
