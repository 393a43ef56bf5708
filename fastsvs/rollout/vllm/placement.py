"""The servers that this process starts or finds, from a job's configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from math import ceil

import torch

from fastsvs import distributed, leftovers
from fastsvs.config import RolloutConfig, ServerConfig
from fastsvs.errors import UserError
from fastsvs.open_files import check_connections
from fastsvs.rollout.nodes import Nodes, read_nodes
from fastsvs.rollout.registry import ENGINES, EngineSpec
from fastsvs.rollout.vllm.command import Launch, cpu_cache_gib, private_address
from fastsvs.rollout.vllm.experts import check_cpu, check_options
from fastsvs.rollout.vllm.key import key_from, own_key, shared_key
from fastsvs.rollout.vllm.options import mode_options, mode_variables
from fastsvs.rollout.vllm.remote import API_KEY, MAIN, Control, heartbeat, serve
from fastsvs.rollout.vllm.server import ExternalServer, LocalServer, Server
from fastsvs.sync import shares_gpus

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_CONTROL: ContextVar[Control | None] = ContextVar("_CONTROL", default=None)
_ENGINES_SO_FAR = count()
"""Number of the next engine, the same in all processes of the job, which open engines in the same order."""


@contextmanager
def announced(rollout: RolloutConfig) -> Iterator[Control | None]:
    """Let the nodes that order and run this job's servers know that this process lives, from before anything that takes
    long until its engine is closed. Yield what they share, or None in a process that has no part in it."""
    nodes, number = read_nodes(rollout), next(_ENGINES_SO_FAR)
    if not takes_part(rollout, nodes):
        yield None
        return
    control = Control(distributed.store(), number)
    token = _CONTROL.set(control)
    try:
        with heartbeat(control, nodes.own):
            yield control
    finally:
        _CONTROL.reset(token)


def takes_part(rollout: RolloutConfig, nodes: Nodes) -> bool:
    """Return True in a process that orders servers on other nodes, or runs servers for another node."""
    if nodes.count == 1 or rollout.placement == "external" or ENGINES.get(rollout.engine).collective:
        return False
    return nodes.leads and nodes.own in {MAIN, *nodes.with_servers}


def shared_control() -> Control | None:
    """Return what `announced` yields, while it is entered."""
    return _CONTROL.get()


def servers_of(spec: EngineSpec, api_key: str, nodes: Nodes, control: Control | None) -> list[Server]:
    """Return all servers of the job; `control` reaches those on other nodes, and may be None when there are none.

    Raises UserError for servers that cannot be started, EngineFailure when a node does not answer.
    """
    if spec.rollout.placement == "external":
        return external_servers(spec.rollout.server)
    own: list[Server] = [*local_servers(spec, api_key, nodes.own)] if nodes.own in nodes.with_servers else []
    if not others(nodes):
        return own
    if control is None:
        raise ValueError("the other nodes do not know of this process: enter announced() first")
    control.put(API_KEY, shared_key(spec.rollout, api_key))
    for node in others(nodes):
        own += control.servers_of(node)
    return own


def serve_node(spec: EngineSpec, nodes: Nodes, control: Control) -> None:
    """Run this node's servers for the main rank until the main rank ends them. Raises EngineFailure when the main rank
    is silent."""
    serve(control, nodes.own, lambda told: local_servers(spec, key_from(told, spec.rollout), nodes.own))


def others(nodes: Nodes) -> list[int]:
    """Return the nodes other than this one that have servers of the job."""
    return [node for node in nodes.with_servers if node != nodes.own]


def check_servers(rollout: RolloutConfig, here: bool, *, tells_experts: bool = False) -> None:
    """Raise UserError for servers that this job cannot start or reach, or that cannot say experts where they are to.
    Checks the key, nodes, GPUs and open files that they need only if `here`, where this process runs on one of the
    job's nodes."""
    config = rollout.server
    if tells_experts and rollout.placement != "external":
        check_options(config.arguments)
    if not here:
        if rollout.placement != "external":
            private_address(config.host)
        return
    own_key(rollout)
    nodes = read_nodes(rollout)
    starts = rollout.placement != "external" and nodes.own in nodes.with_servers
    if starts:
        private_address(config.host)
        count_servers(config, node_devices())
        if not node_devices():
            cpu_cache_gib(os.environ)
        check_files(rollout, 1)
        if tells_experts and not node_devices():
            check_cpu()
    if nodes.own == MAIN:
        per_node = config.count or max(1, node_devices() // config.tensor_parallel)
        servers = len(config.urls) or len(nodes.with_servers) * per_node
        check_files(rollout, ceil(servers / rollout.client_processes))


def check_files(rollout: RolloutConfig, servers: int) -> None:
    """Raise UserError where a process may not have a connection for each sequence that so many servers decode."""
    check_connections(
        servers * rollout.max_sequences,
        f"a process with rollout.max_sequences={rollout.max_sequences} connections to each of {servers} server(s)",
        "lower rollout.max_sequences, or share the servers among more rollout.client_processes",
    )


def node_devices() -> int:
    return len(visible_devices()) if torch.cuda.is_available() else 0


def count_servers(config: ServerConfig, devices: int) -> int:
    """Return the number of servers of a node with `devices` GPUs (0: on its CPU). Raises UserError when they need
    more."""
    count = config.count or max(1, devices // config.tensor_parallel)
    if devices and count * config.tensor_parallel > devices:
        raise UserError(
            f"{count} server(s) with rollout.server.tensor_parallel={config.tensor_parallel} need "
            f"{count * config.tensor_parallel} GPUs, and this node has {devices}"
        )
    return count


def external_servers(config: ServerConfig) -> list[Server]:
    return [ExternalServer(f"server-{index}", url.rstrip("/")) for index, url in enumerate(config.urls)]


def local_servers(spec: EngineSpec, api_key: str, node: int = 0) -> list[LocalServer]:
    """Return the servers of this node, which is number `node` of the job. What an earlier attempt left of its own is
    removed first."""
    config = spec.rollout.server
    devices = visible_devices() if spec.device.type == "cuda" else ()
    count = count_servers(config, len(devices))
    check_files(spec.rollout, 1)
    folder = spec.folder.absolute() / f"node-{node}" if node else spec.folder.absolute()
    leftovers.sweep_orphans(folder)
    if spec.weights is None:
        spec.hf_config.save_pretrained(folder / "model")
    launch = Launch(
        model=spec.weights or str(folder / "model"),
        loads_weights=spec.weights is not None,
        dtype=DTYPES[spec.dtype],
        tensor_parallel=config.tensor_parallel,
        max_sequences=spec.rollout.max_sequences,
        max_sequence_tokens=spec.max_sequence_tokens,
        options=mode_options(spec.rollout) | config.arguments,
        further=tuple(spec.server_arguments),
        variables=mode_variables(spec.rollout),
        host=private_address(config.host),
        api_key=api_key,
        devices=devices,
        servers=count,
        sleeps=shares_devices(spec),
        tells_experts=spec.tells_experts,
    )
    names = [f"server-{index}" if node == 0 else f"node-{node}-server-{index}" for index in range(count)]
    return [LocalServer(name, launch, index, folder / f"{name}.log") for index, name in enumerate(names)]


def shares_devices(spec: EngineSpec) -> bool:
    """Return True when a trainer is there, and uses the same GPUs as the servers."""
    return spec.weights is None and shares_gpus(spec.rollout.placement, spec.device)


def visible_devices() -> tuple[str, ...]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))
