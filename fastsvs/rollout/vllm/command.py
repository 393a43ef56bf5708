"""The command line and the environment of one of our own vLLM servers."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastsvs.accelerator import TRAINER_VARIABLES
from fastsvs.errors import UserError
from fastsvs.network import local_address
from fastsvs.sync import SERVER_ENVIRONMENT
from fastsvs.variables import whole_number
from fastsvs.vllm_guard import KEY_VARIABLE

SUPERVISOR = Path(__file__).with_name("supervisor.py")
SERVER = "fastsvs.vllm_server"
EXPERTS = "enable-return-routed-experts"
"""vLLM's option to say the experts of each token."""
CPU_CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1"}
"""Size of a server's cache on a CPU in GiB, unless the user sets the variable."""
TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "LOCAL_", "GROUP_", "ROLE_", "TORCHELASTIC_")
"""Beginnings of environment variables that a server, which is a job of its own, must not inherit: they would make it
join ours."""
OURS_ALONE = (*TORCHRUN_VARIABLES, *TRAINER_VARIABLES)

Options = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class Launch:
    """Settings that all servers of one node share."""

    model: str
    """Folder with config.json, or hub id."""
    loads_weights: bool
    """True where servers load their weights from `model`; False where the trainer sends them before the first
    request."""
    dtype: str
    tensor_parallel: int
    max_sequences: int
    max_sequence_tokens: int
    options: Options
    """Further vLLM options, which override ours."""
    further: tuple[str, ...]
    """Further words of the command line."""
    variables: Mapping[str, str]
    """Further environment variables."""
    host: str
    api_key: str
    devices: tuple[str, ...]
    """GPUs of this node, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    servers: int
    sleeps: bool
    """True where the servers share GPUs with the trainer and free them while it trains."""
    tells_experts: bool = False
    """True where servers say which experts computed each token."""


def command(launch: Launch, port: int) -> list[str]:
    """Return the command line of a server."""
    options: dict[str, str | int | float | bool] = {
        "model": launch.model,
        "load-format": "auto" if launch.loads_weights else "dummy",
        "tokens-only": True,
        "generation-config": "vllm",  # the model's own would change sampling behind our back
        "logprobs-mode": "processed_logprobs",
        "dtype": launch.dtype,
        "tensor-parallel-size": launch.tensor_parallel,
        "max-num-seqs": launch.max_sequences,
        "scheduling-policy": "priority",  # earlier steps and waves first
        "max-model-len": launch.max_sequence_tokens,
        "enforce-eager": not launch.devices,
        # A prompt read in parts breaks vLLM 0.32 where sampling is seeded: "CPU Generator does not use offset".
        "no-enable-chunked-prefill": not launch.devices,
        "enable-sleep-mode": launch.sleeps,
        "disable-uvicorn-access-log": True,
        "disable-log-stats": True,  # they cost more host time a token than we want to know of them
        **launch.options,
        EXPERTS: launch.tells_experts,
        "host": launch.host,
        "port": port,
    }
    # Not `vllm serve`: vllm-cpu's does not start.
    return [sys.executable, "-m", SERVER, *as_flags(options), *launch.further]


def supervised(command: Sequence[str], record: Path, folder: Path) -> list[str]:
    """Return the command line that runs `command` and removes all of it, its temporary `folder` included, when it or
    this process ends. `record` is the file that says what there is to remove."""
    return [sys.executable, str(SUPERVISOR), str(os.getpid()), str(record), str(folder), *command]


def as_flags(options: Options) -> list[str]:
    """Turn options into command-line words: `True` becomes a flag alone, `False` is left out, and other values follow
    their flag."""
    return [
        part
        for name, value in options.items()
        if value is not False
        for part in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]


def environment(launch: Launch, index: int, inherited: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the environment of server `index` of the node, which has its sockets and temporary files in `folder`. The
    key goes here, because command lines are public."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(OURS_ALONE)}
    own = {KEY_VARIABLE: launch.api_key, **SERVER_ENVIRONMENT, "VLLM_NO_USAGE_STATS": "1", **launch.variables}
    own |= dict.fromkeys(("TMPDIR", "VLLM_RPC_BASE_PATH"), str(folder))
    if launch.devices:
        first = index * launch.tensor_parallel
        return kept | own | {"CUDA_VISIBLE_DEVICES": ",".join(launch.devices[first : first + launch.tensor_parallel])}
    # vLLM would run a C++ compiler for one small function, and if killed at it leave a file that no server can load.
    defaults = {**CPU_CACHE, "TORCH_COMPILE_DISABLE": "1"}
    if launch.servers * launch.tensor_parallel > 1:
        defaults["VLLM_CPU_OMP_THREADS_BIND"] = bound_cores(
            sorted(os.sched_getaffinity(0)), index, launch.servers, launch.tensor_parallel
        )
    return defaults | kept | own


def cpu_cache_gib(inherited: Mapping[str, str]) -> int:
    """Return the size of the cache that a server on a CPU gets in this environment, in GiB. Raises UserError where the
    environment names none that vLLM takes."""
    [(name, default)] = CPU_CACHE.items()
    return whole_number(name, int(default), least=1, environment=inherited)


def bound_cores(cores: Sequence[int], index: int, servers: int, tensor_parallel: int) -> str:
    """Return the cores of each process of server `index` in vLLM's notation: an even share of `cores`, at least one."""
    processes = servers * tensor_parallel
    share = max(1, len(cores) // processes)
    first = index * tensor_parallel
    return "|".join(
        ",".join(str(cores[(process * share + i) % len(cores)]) for i in range(share))
        for process in range(first, first + tensor_parallel)
    )


def private_address(host: str) -> str:
    """Return `host` as an address to bind to; `auto` is that of the interface towards the job's main node.

    Raises UserError for a public one, because neither requests with their key nor weights are encrypted.
    """
    if host == "auto":
        return private_address(local_address(os.environ.get("MASTER_ADDR", "127.0.0.1")))
    try:
        address = ipaddress.ip_address(socket.gethostbyname(host))
    except (OSError, ValueError) as error:
        raise UserError(f"rollout.server.host: {host!r} is no address of this machine: {error}") from error
    if address.is_unspecified or address.is_global:
        raise UserError(
            f"rollout.server.host: {host} can be reached from everywhere, and neither the key nor weights are "
            "encrypted: name a private interface's address, or 127.0.0.1 on one node"
        )
    return str(address)


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
