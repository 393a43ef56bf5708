"""How servers are started: options, keys, addresses, cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from fastsvs.config import RolloutConfig
from fastsvs.errors import UserError
from fastsvs.rollout.vllm.command import (
    SERVER,
    Launch,
    bound_cores,
    command,
    environment,
    private_address,
)
from fastsvs.vllm_guard import KEY_VARIABLE, NAME

KEY = "never to be seen"
FOLDER = Path("/run/server-0.tmp")


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
        "variables": {},
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


def test_experts_are_said_where_they_are_replayed_whatever_the_user_says() -> None:
    options = {"enable-return-routed-experts": False}
    assert "--enable-return-routed-experts" in command(launch(options=options, tells_experts=True), port=1)
    assert "--enable-return-routed-experts" not in command(launch(), port=1)


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
    made = environment(launch(), 0, inherited | {"VLLM_CPU_KVCACHE_SPACE": "7"}, FOLDER)
    assert not {"RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "MASTER_PORT"} & made.keys()
    assert (made["PATH"], made["VLLM_API_KEY"], made["VLLM_SERVER_DEV_MODE"]) == ("/bin", KEY, "1")
    assert made["VLLM_CPU_KVCACHE_SPACE"] == "7"


@pytest.mark.parametrize("name", ["TMPDIR", "VLLM_RPC_BASE_PATH"])
def test_temporary_files_and_sockets_have_a_folder_of_the_servers_own(name: str) -> None:
    assert environment(launch(), 0, {name: "/tmp"}, FOLDER)[name] == str(FOLDER)


def test_what_is_set_for_trainers_is_not_for_servers() -> None:
    trainers = {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_CUDA_ALLOC_CONF": "a", "PYTORCH_ALLOC_CONF": "b"}
    made = environment(launch(), 0, trainers | {"NCCL_SOCKET_IFNAME": "=eth0"}, FOLDER)
    assert not trainers.keys() & made.keys()
    assert made["NCCL_SOCKET_IFNAME"] == "=eth0"


def test_gpu_servers_divide_the_visible_devices() -> None:
    two = launch(devices=("4", "5", "6", "7"), servers=2, sleeps=True)
    assert [environment(two, index, {}, FOLDER)["CUDA_VISIBLE_DEVICES"] for index in (0, 1)] == ["4,5", "6,7"]
    assert "--enable-sleep-mode" in command(two, 1)
    assert "--enforce-eager" not in command(two, 1)


def test_cpu_processes_divide_the_cores() -> None:
    assert bound_cores(range(8), 0, servers=2, tensor_parallel=2) == "0,1|2,3"
    assert bound_cores(range(8), 1, servers=2, tensor_parallel=2) == "4,5|6,7"
    assert bound_cores([3], 1, servers=2, tensor_parallel=1) == "3"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environment(launch(tensor_parallel=1), 0, {}, FOLDER)


def test_only_gpu_servers_compile() -> None:
    assert environment(launch(), 0, {}, FOLDER)["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in environment(launch(devices=("0", "1")), 0, {}, FOLDER)


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
