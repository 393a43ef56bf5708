"""How servers are started: options, keys, addresses, cores; and that nothing outlives whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from fastsvs.config import RolloutConfig
from fastsvs.errors import UserError
from fastsvs.rollout.vllm.command import (
    SERVER,
    SUPERVISOR,
    Launch,
    bound_cores,
    command,
    environment,
    private_address,
)
from fastsvs.vllm_guard import KEY_VARIABLE, NAME

KEY = "never to be seen"


def launch(**changes: object) -> Launch:
    values: dict[str, object] = {
        "model": "/model",
        "loads_weights": False,
        "dtype": "float32",
        "tensor_parallel": 2,
        "max_sequences": 8,
        "max_sequence_tokens": 512,
        "options": {},
        "further": (),
        "host": "127.0.0.1",
        "api_key": KEY,
        "devices": (),
        "servers": 1,
        "sleeps": False,
    }
    return Launch(**values | changes)  # type: ignore[arg-type]


def test_options_of_the_user_win_and_what_we_must_know_does_not_change() -> None:
    options = {"max-model-len": 99, "enforce-eager": False, "enable-prefix-caching": True, "port": 1, "seed": 0}
    words = command(launch(options=options, further=("--worker-extension-cls", "x")), port=4321)
    flags = words[words.index("fastsvs.vllm_server") + 1 :]
    assert flags[flags.index("--max-model-len") + 1] == "99"
    assert flags[flags.index("--port") + 1] == "4321"
    assert flags[flags.index("--seed") + 1] == "0"
    assert "--enforce-eager" not in flags
    assert "--enable-prefix-caching" in flags
    assert flags[-2:] == ["--worker-extension-cls", "x"]
    assert KEY not in " ".join(words)


def test_statistics_come_back_when_asked_for() -> None:
    assert "--disable-log-stats" in command(launch(), port=1)
    assert "--disable-log-stats" not in command(launch(options={"disable-log-stats": False}), port=1)


SPAWNING = """
import gc, multiprocessing, sys

def tell():
    print(gc.get_threshold(), "torch" in sys.modules, sys.argv[-2:], flush=True)

def main():
    tell()
    child = multiprocessing.get_context(sys.argv[1]).Process(target=tell)
    child.start()
    child.join()
"""
"""In place of vLLM's entry: what it starts the engine's processes with."""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_front_and_engine_have_a_patient_garbage_collector_and_the_guard(tmp_path: Path, method: str) -> None:
    folder = tmp_path / "vllm" / "entrypoints" / "launchers" / "api_server"
    folder.mkdir(parents=True)
    for package in (folder, *folder.relative_to(tmp_path).parents[:-1]):
        (tmp_path / package / "__init__.py").touch()
    (folder / "entry.py").write_text(SPAWNING)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", SERVER, method],
        env={**os.environ, "PYTHONPATH": path, KEY_VARIABLE: KEY},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [f"(50000, 20, 20) False ['--middleware', '{NAME}']"] * 2


@pytest.mark.parametrize(("loads", "form"), [(False, "dummy"), (True, "auto")])
def test_weights_come_from_the_trainer_or_the_folder(loads: bool, form: str) -> None:
    words = command(launch(loads_weights=loads), port=1)
    assert words[words.index("--load-format") + 1] == form


def test_the_server_is_no_part_of_the_torchrun_job() -> None:
    inherited = {"RANK": "3", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "MASTER_PORT": "1", "PATH": "/bin"}
    made = environment(launch(), 0, inherited | {"VLLM_CPU_KVCACHE_SPACE": "7"})
    assert not {"RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "MASTER_PORT"} & made.keys()
    assert (made["PATH"], made["VLLM_API_KEY"], made["VLLM_SERVER_DEV_MODE"]) == ("/bin", KEY, "1")
    assert made["VLLM_CPU_KVCACHE_SPACE"] == "7"


def test_what_is_set_for_trainers_is_not_for_servers() -> None:
    trainers = {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_CUDA_ALLOC_CONF": "a", "PYTORCH_ALLOC_CONF": "b"}
    made = environment(launch(), 0, trainers | {"NCCL_SOCKET_IFNAME": "=eth0"})
    assert not trainers.keys() & made.keys()
    assert made["NCCL_SOCKET_IFNAME"] == "=eth0"


def test_gpu_servers_divide_the_visible_devices() -> None:
    two = launch(devices=("4", "5", "6", "7"), servers=2, sleeps=True)
    assert [environment(two, index, {})["CUDA_VISIBLE_DEVICES"] for index in (0, 1)] == ["4,5", "6,7"]
    assert "--enable-sleep-mode" in command(two, 1)
    assert "--enforce-eager" not in command(two, 1)


def test_cpu_processes_divide_the_cores() -> None:
    assert bound_cores(range(8), 0, servers=2, tensor_parallel=2) == "0,1|2,3"
    assert bound_cores(range(8), 1, servers=2, tensor_parallel=2) == "4,5|6,7"
    assert bound_cores([3], 1, servers=2, tensor_parallel=1) == "3"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(launch(tensor_parallel=1), 0, {})


def test_only_gpu_servers_compile() -> None:
    assert environment(launch(), 0, {})["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in environment(launch(devices=("0", "1")), 0, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "8.8.8.8"])
def test_a_public_address_is_refused(host: str) -> None:
    with pytest.raises(UserError, match="can be reached from everywhere"):
        private_address(host)


def test_private_addresses_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert private_address("127.0.0.1") == "127.0.0.1"
    assert private_address("10.1.2.3") == "10.1.2.3"
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert private_address("auto") == "127.0.0.1"
    with pytest.raises(UserError, match="no address"):
        private_address("no.such.host.invalid")


@pytest.mark.parametrize(
    "config",
    [
        {"placement": "external"},
        {"server": {"urls": ["http://10.0.0.5:8000"]}},
        {"placement": "external", "server": {"urls": ["http://10.0.0.5:8000", "http://10.0.0.5:8000"]}},
    ],
)
def test_urls_are_those_of_external_servers_each_once(config: dict) -> None:
    with pytest.raises(ValidationError, match=r"server\.urls"):
        RolloutConfig.model_validate(config)


FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
"""A command that hears no SIGTERM, with a child in a session of its own."""
OWNER = """
import os, subprocess, sys
supervisor, family = sys.argv[1:]
subprocess.Popen([sys.executable, supervisor, str(os.getpid()), sys.executable, "-c", family], start_new_session=True)
print("ready", flush=True)
sys.stdin.read()
"""


def pids_of(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    return [
        int(pid)
        for line in (process.stdout.readline(), process.stdout.readline())
        for pid in line.split()
        if pid != "ready"
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.05)


def test_nothing_outlives_an_owner_that_is_killed() -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(SUPERVISOR), FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pids = pids_of(owner)
    assert len(pids) == 2
    assert all(map(alive, pids))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until_gone(pids)


def test_nothing_outlives_a_command_that_is_killed() -> None:
    supervisor = subprocess.Popen(
        [sys.executable, str(SUPERVISOR), str(os.getpid()), sys.executable, "-c", FAMILY],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    pids = [int(pid) for pid in supervisor.stdout.readline().split()]
    os.kill(pids[0], signal.SIGKILL)
    wait_until_gone(pids)
    assert supervisor.wait(20) != 0


SHARER = """
import os, time
from multiprocessing.shared_memory import SharedMemory
memory = SharedMemory(create=True, size=4096)
print(os.getpid(), memory.name, flush=True)
time.sleep(600)
"""


def test_shared_memory_of_a_killed_command_is_removed() -> None:
    supervisor = subprocess.Popen(
        [sys.executable, str(SUPERVISOR), str(os.getpid()), sys.executable, "-c", SHARER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert supervisor.stdout is not None
    pid, name = supervisor.stdout.readline().split()
    assert Path("/dev/shm", name).exists()
    os.kill(int(pid), signal.SIGKILL)
    supervisor.wait(20)
    assert not Path("/dev/shm", name).exists()


def test_sigterm_ends_a_stopped_command() -> None:
    supervisor = subprocess.Popen(
        [sys.executable, str(SUPERVISOR), str(os.getpid()), sys.executable, "-c", FAMILY],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert supervisor.stdout is not None
    pids = [int(pid) for pid in supervisor.stdout.readline().split()]
    os.kill(pids[0], signal.SIGSTOP)
    supervisor.terminate()
    wait_until_gone(pids)
    supervisor.wait(20)
