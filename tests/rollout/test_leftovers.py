"""Nothing outlives whoever started a server: no process, shared memory, socket or temporary file, whoever is killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from waiting import alive, wait_for

from fastsvs import leftovers
from fastsvs.config import RolloutConfig
from fastsvs.leftovers import Record
from fastsvs.processes import runs
from fastsvs.rollout import EngineSpec
from fastsvs.rollout.vllm import LocalServer
from fastsvs.rollout.vllm import server as server_module
from fastsvs.rollout.vllm.command import SERVER, Launch, supervised
from fastsvs.rollout.vllm.placement import local_servers
from fastsvs.vllm_guard import KEY_VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="servers run on Linux")

FAMILY = """
import os, signal, socket, subprocess, sys, tempfile, time
from multiprocessing.shared_memory import SharedMemory
signal.signal(signal.SIGTERM, signal.SIG_IGN)
memory = SharedMemory(create=True, size=4096)
bound = socket.socket(socket.AF_UNIX)
bound.bind(os.path.join(tempfile.gettempdir(), "bound"))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, memory.name, flush=True)
time.sleep(600)
"""
"""A command that hears no SIGTERM and has shared memory, a socket, and a child in a session of its own that has no
death signal."""
LOSES = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import os, time
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=4096)
print(os.getpid(), resource_tracker._resource_tracker._pid, memory.name, flush=True)
time.sleep(600)
'''])
time.sleep(600)
"""
"""A command that lives on when its child, which has shared memory, and the child's resource tracker die."""
OWNER = """
import sys, time
from pathlib import Path
from test_leftovers import start
start(Path(sys.argv[1]), [sys.executable, "-c", sys.argv[2]])
time.sleep(600)
"""
NESTED = """
import multiprocessing, os, time
from multiprocessing.shared_memory import SharedMemory

def work():
    memory = SharedMemory(create=True, size=4096)
    print(os.getpid(), memory.name, flush=True)
    time.sleep(600)

def core():
    print(os.getpid(), "-", flush=True)
    child = multiprocessing.get_context("METHOD").Process(target=work)
    child.start()
    child.join()

def main():
    print(os.getpid(), "-", flush=True)
    child = multiprocessing.get_context("METHOD").Process(target=core)
    child.start()
    child.join()
"""
"""In place of vLLM's entry: three levels of processes, of which the last has shared memory."""


def start(folder: Path, command: list[str], **options: object) -> subprocess.Popen[str]:
    """Start a command as a server is started."""
    temporary = leftovers.temporary_folder(folder / "server-0.log")
    return subprocess.Popen(
        supervised(command, leftovers.record_of(folder / "server-0.log"), temporary),
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary), **options.pop("env", {})},  # type: ignore[dict-item]
        start_new_session=True,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def family_of(process: subprocess.Popen[str]) -> tuple[list[int], Path]:
    """Return the processes of the command and its shared memory."""
    assert process.stdout is not None
    *pids, name = process.stdout.readline().split()
    segment = Path("/dev/shm", name)
    assert segment.exists()
    return [int(pid) for pid in pids], segment


def wait_until_gone(pids: list[int]) -> None:
    wait_for(lambda: not any(map(alive, pids)), f"the end of {[pid for pid in pids if alive(pid)]}")


def wait_for_record(folder: Path, pids: list[int], segment: Path) -> None:
    """Wait until the supervisor has written down what there is."""

    def complete() -> bool:
        record = leftovers.read(folder / "server-0.running.json")
        return (
            record is not None
            and {*pids} <= {pid for pid, _ in record.processes}
            and segment.name in {name for name, _ in record.segments}
        )

    wait_for(complete, "the record")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path that is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        yield Path(path)
        leftovers.sweep(Path(path, "server-0.running.json"))


def kill_owner(owner: subprocess.Popen[str], _pids: list[int]) -> None:
    owner.kill()


def kill_command(_owner: subprocess.Popen[str], pids: list[int]) -> None:
    os.kill(pids[0], signal.SIGKILL)


def stop_command_and_kill_owner(owner: subprocess.Popen[str], pids: list[int]) -> None:
    os.kill(pids[0], signal.SIGSTOP)
    owner.kill()


@pytest.mark.parametrize("harm", [kill_owner, kill_command, stop_command_and_kill_owner])
def test_the_supervisor_leaves_nothing(folder: Path, harm: Callable[[subprocess.Popen[str], list[int]], None]) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder), FAMILY],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])},
        text=True,
    )
    pids, segment = family_of(owner)
    wait_for_record(folder, pids, segment)
    assert (folder / "server-0.tmp" / "bound").is_socket()
    harm(owner, pids)
    wait_until_gone(pids)
    wait_for(lambda: not segment.exists(), "shared memory")
    wait_for(lambda: not list(folder.iterdir()), "files")
    owner.kill()
    owner.wait()


def test_sigterm_ends_a_stopped_command(folder: Path) -> None:
    supervisor = start(folder, [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE)
    pids, segment = family_of(supervisor)
    os.kill(pids[0], signal.SIGSTOP)
    supervisor.terminate()
    supervisor.wait(20)
    assert not any(map(alive, pids))
    assert not segment.exists()
    assert list(folder.iterdir()) == []


def test_what_a_killed_supervisor_leaves_is_swept(folder: Path) -> None:
    supervisor = start(folder, [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE)
    pids, segment = family_of(supervisor)
    wait_for_record(folder, pids, segment)
    supervisor.kill()
    supervisor.wait()
    wait_until_gone(pids[:1])
    assert alive(pids[1])  # nobody gave it a death signal
    leftovers.sweep(folder / "server-0.running.json")
    assert not any(map(alive, pids))
    assert not segment.exists()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("victim", ["nobody", "supervisor"])
def test_shared_memory_of_a_process_that_died_before_the_command_is_removed(folder: Path, victim: str) -> None:
    supervisor = start(folder, [sys.executable, "-c", LOSES], stdout=subprocess.PIPE)
    place = folder / "server-0.running.json"
    pids, segment = family_of(supervisor)
    wait_for_record(folder, pids, segment)
    for pid in reversed(pids):  # the resource tracker first, which would remove it
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: (found := leftovers.read(place)) is not None and pids[0] not in dict(found.processes), "a survey")
    if victim == "supervisor":
        supervisor.kill()
    supervisor.terminate()
    supervisor.wait()
    leftovers.sweep(place)
    assert not segment.exists()
    assert list(folder.iterdir()) == []


def nested(folder: Path, method: str) -> tuple[subprocess.Popen[str], list[int], Path]:
    """Start a server with three levels of processes; return the supervisor, the levels, and the shared memory."""
    inside = folder / "packages" / "vllm" / "entrypoints" / "launchers" / "api_server"
    inside.mkdir(parents=True)
    for package in (inside, *list(inside.parents)[:3]):
        (package / "__init__.py").touch()
    (inside / "entry.py").write_text(NESTED.replace("METHOD", method))
    path = os.pathsep.join([str(folder / "packages"), *filter(None, sys.path)])
    own = folder / "servers"
    own.mkdir()
    supervisor = start(
        own, [sys.executable, "-m", SERVER], stdout=subprocess.PIPE, env={"PYTHONPATH": path, KEY_VARIABLE: "k"}
    )
    assert supervisor.stdout is not None
    lines = [supervisor.stdout.readline().split() for _ in range(3)]
    return supervisor, [int(pid) for pid, _ in lines], Path("/dev/shm", lines[-1][1])


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.parametrize("victim", ["supervisor", "front", "core"])
def test_every_level_ends_with_the_one_above(folder: Path, method: str, victim: str) -> None:
    """Nothing sweeps here, and whoever is above the victim is stopped and cannot help."""
    supervisor, pids, segment = nested(folder, method)
    chain = [supervisor.pid, *pids]
    index = ["supervisor", "front", "core"].index(victim)
    try:
        if index:
            supervisor.send_signal(signal.SIGSTOP)
        os.kill(chain[index], signal.SIGKILL)
        wait_until_gone(pids[index:])
    finally:
        supervisor.kill()
        supervisor.wait()
    wait_until_gone(pids)
    leftovers.sweep(folder / "servers" / "server-0.running.json")
    wait_for(lambda: not segment.exists(), "shared memory")
    assert list((folder / "servers").iterdir()) == []


LAUNCH = Launch("model", True, "float32", 1, 8, 64, {}, (), {}, "127.0.0.1", "key", (), 1, False)


def test_a_server_that_is_stopped_after_its_supervisor_died_leaves_its_log(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "command", lambda launch, port: [sys.executable, "-c", FAMILY])
    server = LocalServer("server-0", LAUNCH, 0, folder / "server-0.log")

    async def life() -> None:
        await server.start()
        log = folder / "server-0.log"
        wait_for(lambda: len(log.read_text().splitlines()) == 2)
        *pids, name = log.read_text().splitlines()[1].split()
        wait_for_record(folder, [int(pid) for pid in pids], Path("/dev/shm", name))
        record = leftovers.read(folder / "server-0.running.json")
        assert record is not None
        os.kill(record.processes[0][0], signal.SIGKILL)
        wait_for(lambda: server.exited() is not None)
        await server.stop()
        assert not any(alive(int(pid)) for pid in pids)
        assert not Path("/dev/shm", name).exists()
        assert list(folder.iterdir()) == [log]

    asyncio.run(life())


def record(folder: Path, **changes: object) -> Record:
    fields = {
        "boot": leftovers.boot(),
        "owner": (os.getpid(), 1),  # another process had this number
        "folder": str(folder / "server-0.tmp"),
    }
    return Record(**fields | changes)  # type: ignore[arg-type]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no business of ours."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def test_a_number_that_now_means_another_process_or_another_boot_is_let_be(
    folder: Path, bystander: subprocess.Popen[bytes]
) -> None:
    pid, started = leftovers.identify(bystander.pid)
    memory = SharedMemory(create=True, size=16)
    inode = Path("/dev/shm", memory.name).stat().st_ino
    memory.close()
    try:
        for harmless in (
            record(folder, processes=((pid, started - 1),), segments=((memory.name, inode + 1),)),
            record(folder, boot="an earlier one", processes=((pid, started),), segments=((memory.name, inode),)),
        ):
            leftovers.write(folder / "server-0.running.json", harmless)
            leftovers.sweep_orphans(folder)
            assert alive(pid)
            assert Path("/dev/shm", memory.name).exists()
            assert list(folder.iterdir()) == []
    finally:
        memory.unlink()


def test_shared_memory_that_somebody_else_uses_stays(folder: Path) -> None:
    memory = SharedMemory(create=True, size=16)
    try:
        inode = Path("/dev/shm", memory.name).stat().st_ino
        leftovers.remove(record(folder, segments=((memory.name, inode),)))
        assert Path("/dev/shm", memory.name).exists()
    finally:
        memory.close()
        memory.unlink()


def test_what_has_an_owner_is_no_leftover(folder: Path, bystander: subprocess.Popen[bytes]) -> None:
    own = leftovers.identify(os.getpid())
    kept = record(folder, owner=own, processes=(leftovers.identify(bystander.pid),))
    leftovers.write(folder / "server-0.running.json", kept)
    leftovers.sweep_orphans(folder)
    assert runs(*kept.processes[0])
    leftovers.write(folder / "server-0.running.json", replace(kept, owner=(own[0], own[1] - 1)))
    leftovers.sweep_orphans(folder)
    assert not runs(*kept.processes[0])


def test_a_start_removes_what_an_earlier_attempt_left(folder: Path, bystander: subprocess.Popen[bytes]) -> None:
    """Also of a server that the new attempt does not have."""
    left = record(folder, processes=(leftovers.identify(bystander.pid),))
    leftovers.write(folder / "server-7.running.json", left)
    (folder / "server-0.tmp").mkdir()
    tiny = AutoConfig.from_pretrained(Path(__file__).parents[2] / "models" / "tiny")
    spec = EngineSpec(tiny, torch.float32, torch.device("cpu"), [3], RolloutConfig(engine="vllm"), 512, folder)
    local_servers(spec, "key")
    assert not runs(*left.processes[0])
    assert [path.name for path in folder.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"boot": 1}', '{"boot": "", "owner": [1], "folder": "", "processes": [], "segments": []}'],
)
def test_a_record_that_makes_no_sense_is_removed(folder: Path, text: str) -> None:
    (folder / "server-0.running.json").write_text(text)
    leftovers.sweep_orphans(folder)
    assert list(folder.iterdir()) == []


def test_a_temporary_folder_that_is_another_place_now_is_not_followed(folder: Path) -> None:
    precious = folder / "precious"
    precious.mkdir()
    (folder / "server-0.tmp").symlink_to(precious)
    leftovers.remove(record(folder))
    assert precious.is_dir()


def test_sockets_are_in_a_folder_of_the_users_own(folder: Path) -> None:
    supervisor = start(folder, [sys.executable, "-c", FAMILY], stdout=subprocess.PIPE)
    pids, _ = family_of(supervisor)
    temporary = folder / "server-0.tmp"
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert temporary.stat().st_uid == os.getuid()
    assert (temporary / "bound").is_socket()
    os.kill(pids[0], signal.SIGKILL)
    supervisor.wait(20)


def test_deep_run_folders_have_sockets_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = folder / "short"
    short.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(short))
    log = folder / "server-0.log"
    assert leftovers.temporary_folder(log) == folder / "server-0.tmp"
    assert not (folder / "server-0.tmp").exists()
    deep = folder / ("x" * (107 - 37 - len("/server-0.tmp") - len(f"{folder}/") + 1)) / "server-0.log"
    deep.parent.mkdir()
    elsewhere = leftovers.temporary_folder(deep)
    assert elsewhere.parent == short
    assert elsewhere != leftovers.temporary_folder(deep)
    assert list(short.iterdir()) == []
    assert list(deep.parent.iterdir()) == []


def test_the_record_holds_names_that_only_json_can_carry(folder: Path) -> None:
    place = folder / "server-0.running.json"
    strange = record(folder, segments=(("psm 1\n\udce4", 3),), processes=((1, 2), (3, 4)))
    leftovers.write(place, strange)
    assert leftovers.read(place) == strange
    json.loads(place.read_text())
