"""Rollouts under a low limit on open files, in a process of its own; the servers live in another one."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastsvs import open_files
from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.errors import UserError
from fastsvs.open_files import RESERVED, check_connections
from fastsvs.rollout.vllm.placement import check_servers

SERVERS = """
import asyncio, sys
from speaking_server import SpeakingServer
async def main():
    servers = [SpeakingServer(str(i)) for i in range(4)]
    print(*[await server.start() for server in servers], flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""
PREAMBLE = """
import os, resource, sys, threading, time
soft, hard, sequences = map(int, sys.argv[1:4])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from fastsvs.config import ServerConfig
from fastsvs.rollout import Request, SamplingParams, VllmEngine
from fastsvs.rollout.vllm import ExternalServer
from speaking_server import EOS, KEY, VOCABULARY

servers = [ExternalServer(str(i), url, ours=True) for i, url in enumerate(sys.argv[4:])]
engine = VllmEngine(servers, ServerConfig(), api_key=KEY,
    eos_token_ids=[EOS], vocabulary=VOCABULARY, max_sequences=sequences, max_sequence_tokens=64)
engine.weights_loaded([endpoint.name for endpoint in engine.endpoints(10)], 1)

def ask(count):
    engine.submit([Request(str(i), (5,), 1, SamplingParams(max_tokens=8), seed=i) for i in range(count)])
    deadline = time.monotonic() + 60
    while engine.pending() and time.monotonic() < deadline:
        engine.poll(0.1)
    found = engine.metrics()
    print(engine.pending(), *(int(found[f"rollout/{name}"]) for name in ("restarts", "requests_resent", "servers")))

def take(files):
    while True:
        try:
            files.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            return
"""


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    process = started(SERVERS, stdin=subprocess.PIPE)
    assert process.stdout is not None
    yield process.stdout.readline().split()
    process.communicate("")


def started(program: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    here = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    words = [sys.executable, "-c", here + program, *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]


def run(program: str, *arguments: object) -> tuple[str, str]:
    process = started(PREAMBLE + program, *arguments)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-3000:]
    return output, errors


def test_a_low_soft_limit_is_raised(urls: list[str]) -> None:
    """With one connection a call 64 x 2 x 4 would be open at once."""
    assert run("ask(1000)", 128, 2048, 64, *urls)[0] == "0 0 0 4\n"


def test_connections_stay_under_the_hard_limit(urls: list[str]) -> None:
    limit = 4 * 64 + RESERVED
    assert run("ask(1000)", limit, limit, 64, *urls)[0] == "0 0 0 4\n"


EXHAUST = """
from fastsvs.client import files, http
held = []
time.sleep(1.5 * http.KEEP_SECONDS)  # no connection is left open
take(held)
"""
"""All files of the trainer, which has yet to start its client process, and goes on asking for the servers' health."""


def test_files_that_others_hold_are_waited_for_and_no_server_is_blamed(urls: list[str]) -> None:
    program = """
threading.Timer(3.0, lambda: [os.close(file) for file in held]).start()
ask(200)
"""
    assert run(EXHAUST + program, 400, 400, 16, *urls)[0] == "0 0 0 4\n"


def test_files_that_nobody_gives_back_end_the_run_with_the_limits_name(urls: list[str]) -> None:
    program = """
files.FILES_SECONDS = 1.0
try:
    ask(200)
except Exception as error:
    os.close(held.pop())
    print(type(error).__name__, error)
"""
    output, _ = run(EXHAUST + program, 400, 400, 16, *urls)
    assert output.startswith("EngineFailure cannot ")
    assert "this process can open no more files, 400 at most; raise the limit" in output
    assert "ulimit -n" in output


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_files, "limit", lambda: 1024)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("sequences", "options"),
    [
        (256, {"server": ServerConfig(count=4)}),
        (256, {"placement": "external", "server": ServerConfig(urls=tuple(f"http://10.0.0.{i}:1" for i in range(4)))}),
    ],
)
def test_what_cannot_work_is_refused_before_it_begins(
    sequences: int, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSVS_API_KEY", "k")  # which external servers need
    config = RolloutConfig(engine="vllm", max_sequences=sequences, **options)
    with pytest.raises(
        UserError, match=rf"max_sequences=256 .* 4 server.* needs {1024 + RESERVED} open files.*`ulimit -n"
    ):
        check_servers(config, here=True)
    check_servers(config, here=False)  # another machine's limit is not known
    check_servers(config.model_copy(update={"max_sequences": (1024 - RESERVED) // 4}), here=True)


def test_the_limit_itself_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 300))
    check_connections(300 - RESERVED, "it", "do less")
    with pytest.raises(UserError, match="may open 300 here"):
        check_connections(301 - RESERVED, "it", "do less")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, resource.RLIM_INFINITY))
    check_connections(1_000_000, "it", "do less")
